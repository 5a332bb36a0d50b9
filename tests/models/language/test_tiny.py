"""The small transformer is causal, trains on a text, and says what it cannot take."""

import pytest
import torch

from gramian.models.language.tiny import TinyTransformer, byte_ids, train_on_tokens


@pytest.mark.parametrize("gated", [False, True])
def test_no_position_sees_a_later_one(gated):
    torch.manual_seed(0)
    model = TinyTransformer(32, 2, 2, activation="silu", gated=gated, positions=16).eval()
    ids = torch.randint(256, (2, 12))
    later = ids.clone()
    later[:, 7:] = 3
    a, b = model(ids), model(later)
    assert torch.allclose(a[:, :7], b[:, :7], atol=1e-6)
    assert not torch.allclose(a[:, 7], b[:, 7])


def test_training_learns_a_repeated_text():
    torch.manual_seed(0)
    ids = byte_ids("the quick brown fox. " * 40)
    model = TinyTransformer(32, 1, 2, positions=32)
    history = train_on_tokens(
        model, ids, steps=120, length=32, batch_size=16, lr=1e-2, generator=torch.Generator().manual_seed(0)
    )
    assert history.rows[-1]["loss"] < 0.5
    assert not model.training


def test_bytes_are_utf8():
    assert byte_ids("aé").tolist() == [97, 195, 169]


def test_bad_input():
    with pytest.raises(ValueError, match="multiple of heads"):
        TinyTransformer(30, 1, 4)
    with pytest.raises(ValueError, match="at most"):
        TinyTransformer(32, 1, 2, positions=8)(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="at least 34"):
        train_on_tokens(TinyTransformer(32, 1, 2), byte_ids("short"), steps=1, length=32)
