"""Sparse layers agree with masked dense ones, whichever path they take."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.nn.sparse.gated import SparseGatedMLP, ThresholdedLinear


def layer(bias=False, thresholds=None):
    torch.manual_seed(0)
    gate, up, down = nn.Linear(6, 20, bias=bias), nn.Linear(6, 20, bias=bias), nn.Linear(20, 6, bias=bias)
    return SparseGatedMLP(gate, up, down, F.silu, torch.full((20,), 0.1) if thresholds is None else thresholds)


@pytest.mark.parametrize("bias", [False, True])
def test_one_token_and_many_agree_and_the_closed_gates_are_counted(bias):
    mlp, x = layer(bias), torch.randn(1, 1, 6)
    opened = F.silu(mlp.gate_proj(x))
    gate = opened * (opened.abs() >= 0.1)
    dense = mlp.down_proj(mlp.up_proj(x) * gate)
    with torch.no_grad():
        assert torch.allclose(mlp(x), dense, atol=1e-6)
        assert mlp.density == pytest.approx(float((gate != 0).float().mean()))
        assert 0 < mlp.density < 1
        assert torch.allclose(mlp(x.expand(3, 1, 6)), dense.expand(3, 1, 6), atol=1e-6)
    assert mlp(x).requires_grad


def test_a_weight_changed_in_place_is_seen():
    mlp, x = layer(), torch.randn(1, 6)
    with torch.no_grad():
        mlp(x)
        mlp.down_proj.weight.mul_(2)
        assert torch.allclose(mlp(x), mlp(x.expand(2, 6))[:1], atol=1e-6)


def test_thresholded_inputs():
    torch.manual_seed(0)
    base, x = nn.Linear(8, 3), torch.randn(1, 8)
    thin = ThresholdedLinear(base, 0.5)
    with torch.no_grad():
        assert torch.allclose(thin(x), base(x * (x.abs() >= 0.5)), atol=1e-6)
        assert torch.allclose(thin(x.expand(4, 8)), base(x * (x.abs() >= 0.5)).expand(4, 3), atol=1e-6)
        assert torch.allclose(ThresholdedLinear(base, 0.0)(x), base(x), atol=1e-6)
    assert thin.weight is base.weight


@pytest.mark.parametrize(
    "call",
    [
        lambda: layer(thresholds=torch.ones(19)),
        lambda: layer(thresholds=-torch.ones(20)),
        lambda: layer(thresholds=torch.full((20,), torch.nan)),
        lambda: ThresholdedLinear(nn.Linear(2, 2), -1.0),
        lambda: ThresholdedLinear(nn.Linear(2, 2), 1.0).density,
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"thresholds|threshold|called"):
        call()
