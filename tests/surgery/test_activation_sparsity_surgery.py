"""Closing gates: calibration, undoing, attention, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from gramian.models.language.tiny import TinyTransformer
from gramian.surgery.activation_sparsity import cats, channel_thresholds, chess, gated_mlps, layer_threshold

IDS = torch.randint(256, (60,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyTransformer(32, 2, 2, activation="silu", gated=True, positions=64).eval()


@pytest.mark.parametrize("method", [chess, cats])
def test_the_share_asked_for_is_closed_and_the_model_comes_back(method, model):
    with torch.no_grad():
        before = model(IDS[None])
        handle = method(model, [IDS], 0.4)
        model(IDS[None])
        closed = [1 - m.density for m in handle.replacements.values()]
        assert closed == pytest.approx([0.4, 0.4], abs=0.005)
        again = copy.deepcopy(model)
        assert torch.equal(again(IDS[None]), model(IDS[None]))
        handle.undo()
        assert torch.equal(model(IDS[None]), before)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 8)


class WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 8)
        self.attention = Attention()
        self.mlp = TinyTransformer(8, 1, 1, activation="silu", gated=True).layers[0].feed_forward

    def forward(self, ids):
        x = self.embed(ids)
        return self.mlp(self.attention.o_proj(torch.tanh(self.attention.q_proj(x))))


def test_attention_inputs_are_thinned_as_asked():
    torch.manual_seed(0)
    model = WithAttention().eval()
    with torch.no_grad(), chess(model, [IDS], 0.3, attention=0.5) as handle:
        model(IDS[None])
        assert set(handle.names) == {"attention.q_proj", "attention.o_proj", "mlp"}
        assert 1 - handle.replacements["attention.q_proj"].density == pytest.approx(0.5, abs=0.03)


def test_a_channel_that_adds_nothing_gets_a_finite_threshold():
    up = torch.rand(10, 4)
    up[:, 2] = 0
    t = channel_thresholds(up, torch.rand(10, 4), 0.5)
    assert torch.isfinite(t).all()
    assert t[2] > 100 * t[0]
    assert torch.isfinite(channel_thresholds(torch.zeros(3, 2), torch.zeros(3, 2), 0.5)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: chess(m, [IDS], 1.0), "shares"),
        (lambda m: chess(m, [IDS], 0.5, attention=-0.1), "shares"),
        (lambda m: chess(m, [], 0.5), "calibration"),
        (lambda m: chess(m, [IDS[:0]], 0.5), "calibration"),
        (lambda m: chess(m, [IDS], 0.5, attention=0.5), "q_proj"),
        (lambda m: gated_mlps(nn.Sequential(nn.Linear(2, 2))), "no gated"),
        (lambda m: channel_thresholds(torch.zeros(2, 3), torch.zeros(2, 4), 0.5), "one text"),
        (lambda m: layer_threshold(torch.zeros(2, 3), torch.zeros(2, 3), 1.0), "not in"),
    ],
)
def test_bad_input(call, message, model):
    with pytest.raises((ValueError, TypeError), match=rf"{message}|type"):
        call(model)
