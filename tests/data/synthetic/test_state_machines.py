import pytest
import torch

from gramian.data.synthetic.state_machines import machine_words, random_machine


def test_words_follow_the_machine():
    generator = torch.Generator().manual_seed(0)
    table = random_machine(3, 5, generator)
    words = machine_words(table, 4, 20, generator, start=2)
    for tokens, states in zip(words.tokens.tolist(), words.targets.tolist(), strict=True):
        state = 2
        for letter, after in zip(tokens, states, strict=True):
            state = int(table[letter, state])
            assert state == after
    assert (words.letters, words.classes) == (3, 5)


def test_invertible_machines_permute():
    table = random_machine(6, 4, torch.Generator().manual_seed(1), invertible=True)
    assert all(sorted(row) == [0, 1, 2, 3] for row in table.tolist())


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="states=1"):
        random_machine(2, 1)
    with pytest.raises(ValueError, match="length=0"):
        machine_words(random_machine(2, 3), 1, 0)
