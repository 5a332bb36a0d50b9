"""Thresholds by a common error: the rules, the curves and what is refused."""

import math

import pytest
import torch
from torch import nn

from gramian.analysis import activation_sparsity as sparse
from gramian.models.language.tiny import TinyTransformer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TinyTransformer(32, 2, 2, activation="silu", gated=True, positions=64).eval()


IDS = torch.randint(256, (64,), generator=torch.Generator().manual_seed(0))


def test_the_down_projections_of_known_families_are_found(model):
    assert list(sparse.down_projections(model)) == ["layers.0.feed_forward.down", "layers.1.feed_forward.down"]
    output = nn.ModuleDict({"dense": nn.Linear(4, 4)})
    attention, last = nn.ModuleDict({"output": output}), nn.ModuleDict({"dense": nn.Linear(8, 4)})
    layer = nn.ModuleDict({"attention": attention, "output": last})
    bert = nn.ModuleDict({"0": layer})
    assert list(sparse.down_projections(bert)) == ["0.output.dense"]
    assert list(sparse.down_projections(nn.Sequential(nn.Linear(2, 3)), "0")) == ["0"]
    with pytest.raises(ValueError, match=r"pattern=.*0"):
        sparse.down_projections(nn.Sequential(nn.Linear(2, 3)))


def test_curves_rise_from_nothing_to_everything(model):
    curves = sparse.measure_curves(model, IDS, points=9, tokens=64)
    for curve in curves.values():
        assert curve.errors[0] == 0
        assert curve.sparsity[0] == 0
        assert curve.errors[-1] == pytest.approx(1, abs=1e-5)
        assert curve.sparsity[-1] == 1
        assert (curve.thresholds.diff() > 0).all()
        middle = curve.threshold_at(0.2)
        assert curve.threshold_at(0.1) < middle < curve.threshold_at(0.3)


def test_the_rules_drop_what_they_say(model):
    hidden = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    down = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    sizes = hidden.abs() * down.norm(dim=0)
    kept = sparse.top_k_rule(3 / 7, down)(hidden)
    assert ((kept != 0).sum(1) == 3).all()
    assert torch.equal(kept != 0, sizes >= sizes.topk(3, dim=1).values[:, -1:])
    assert torch.equal(sparse.threshold_rule(1.0, down)(hidden), hidden * (sizes >= 1.0))
    assert torch.equal(sparse.magnitude_rule(0.5)(hidden), hidden * (hidden.abs() >= 0.5))
    assert torch.equal(sparse.top_k_rule(1.0, down)(hidden), hidden)


def test_a_model_is_left_as_it_was(model):
    before = model(IDS.unsqueeze(0))
    curves = sparse.measure_curves(model, IDS, points=5, tokens=32)
    found = sparse.sparsity_at_error(model, IDS, curves, 0.3)
    assert 0.1 < found.sparsity < 0.9
    assert set(found.layers) == set(curves)
    assert torch.equal(model(IDS.unsqueeze(0)), before)


def test_dropping_everything_from_a_zero_token_is_no_error():
    assert sparse.cett(torch.zeros(2, 4), torch.ones(3, 4), 1.0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: sparse.ppl_sparsity(m, IDS, -1.0), "negative"),
        (lambda m: sparse.cett(torch.zeros(2, 4), torch.ones(3, 4), -1.0), "negative"),
        (lambda m: sparse.cett(torch.zeros(2, 4), torch.ones(3, 5), 1.0), "neurons"),
        (lambda m: sparse.top_k_rule(0.0, torch.ones(2, 2)), "share"),
        (lambda m: sparse.measure_curves(m, IDS, points=1), "points"),
        (lambda m: sparse.sparsity_at_error(m, IDS, {}, 1.5), "between 0 and 1"),
    ],
)
def test_bad_input(call, message, model):
    with pytest.raises((ValueError, TypeError), match=rf"{message}|type"):
        call(model)


def test_a_model_that_predicts_nothing_finite_is_named(model):
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="own loss"):
        sparse.ppl_sparsity(model, IDS, 1.0)
