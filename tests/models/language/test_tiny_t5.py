import pytest
import torch

from gramian import optim
from gramian.models.language import tiny_t5 as t5

TEXTS = ["Small left effusion.", "The heart is normal.", "<mask> no edema, 12 nodules."]


def test_words_go_there_and_back():
    vocabulary = t5.Vocabulary(TEXTS)
    ids = vocabulary.encode(TEXTS)
    assert [vocabulary.decode(row) for row in ids] == [
        "small left effusion .", "the heart is normal .", "<mask> no edema , 12 nodules .",
    ]  # fmt: skip
    assert vocabulary.encode(TEXTS, 3).shape == (3, 3)
    assert bool((vocabulary.encode(TEXTS, 3)[:, -1] == t5.END).all())
    assert len(vocabulary) == len(set(vocabulary.words))
    with pytest.raises(ValueError, match="text 1 is empty"):
        vocabulary.encode(["a", ""])
    with pytest.raises(ValueError, match="text 0"):
        vocabulary.encode([])


def test_it_learns_to_write_what_it_is_shown():
    pytest.importorskip("transformers")
    vocabulary = t5.Vocabulary(TEXTS)
    state = torch.get_rng_state()
    model = t5.tiny_t5(len(vocabulary), 0, width=32, depth=1)
    assert torch.get_rng_state().equal(state)
    again = t5.tiny_t5(len(vocabulary), 0, width=32, depth=1)
    assert all(a.equal(b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    data = t5.pairs(vocabulary, TEXTS[:2], TEXTS[1::-1])
    assert bool((data[1] == t5.IGNORED).any()) or data[1].shape[1] == 5
    optim.fit(model, data, t5.pair_loss, steps=40, lr=1e-2, show_progress=False)
    model.eval()
    assert t5.write(model, vocabulary, TEXTS[:2], 8) == ["the heart is normal .", "small left effusion ."]


def test_heads_must_divide_the_width():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="heads=3"):
        t5.tiny_t5(10, heads=3)
