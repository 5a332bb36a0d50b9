"""Generated words against plain evaluation."""

import pytest
import torch

from gramian.data.synthetic import IGNORE, group_words, mod_counting, modular_arithmetic, parity
from gramian.linalg.symmetry import symmetric_group


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parity_and_counting():
    words = parity(5, 30, generator())
    assert all(words.targets[i, t] == sum(words.tokens[i, : t + 1].tolist()) % 2 for i in range(5) for t in range(30))
    words = mod_counting(5, 30, 7, generator())
    assert all(words.targets[i, t] == sum(words.tokens[i, : t + 1].tolist()) % 7 for i in range(5) for t in range(30))
    assert (words.letters, words.classes) == (7, 7)


@pytest.mark.parametrize("generators_only", [False, True])
def test_group_words_compose(generators_only):
    words = group_words(3, 25, 4, generators_only, generator())
    elements = symmetric_group(4).tolist()
    alphabet = [[1, 0, 2, 3], [1, 2, 3, 0]] if generators_only else elements
    assert words.letters == len(alphabet)
    for tokens, targets in zip(words.tokens.tolist(), words.targets.tolist(), strict=True):
        product = [0, 1, 2, 3]
        for token, target in zip(tokens, targets, strict=True):
            product = [alphabet[token][p] for p in product]
            assert elements[target] == product


def evaluated(tokens, modulus=5):
    return eval("".join("01234+-*()"[t] for t in tokens)) % modulus


def test_arithmetic_without_brackets_is_right_at_every_digit():
    words = modular_arithmetic(30, 21, 5, generator=generator())
    for tokens, targets in zip(words.tokens.tolist(), words.targets.tolist(), strict=True):
        assert targets[::2] == [evaluated(tokens[: t + 1]) for t in range(0, 21, 2)]
        assert targets[1::2] == [IGNORE] * 10


def test_arithmetic_with_brackets():
    words = modular_arithmetic(30, 21, 5, brackets=True, generator=generator())
    for tokens, targets in zip(words.tokens.tolist(), words.targets.tolist(), strict=True):
        assert targets == [IGNORE] * 20 + [evaluated(tokens)]


def test_seeded():
    for make in (parity, mod_counting, group_words, modular_arithmetic):
        first, again, other = (make(2, 21, generator=generator(s)).tokens for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="samples=0"):
        parity(0, 3)
    with pytest.raises(ValueError, match="length=0"):
        parity(1, 0)
    with pytest.raises(ValueError, match="modulus=1"):
        mod_counting(1, 3, 1)
    with pytest.raises(ValueError, match="length=4"):
        modular_arithmetic(1, 4)
    with pytest.raises(ValueError, match="length=7"):
        modular_arithmetic(1, 7, brackets=True)
