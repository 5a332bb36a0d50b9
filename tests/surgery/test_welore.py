import numpy as np
import pytest
import torch
from torch import nn

from gramian.analysis.gradient_rank import GradientRanks, stable_rank
from gramian.nn.low_rank import LowRankLinear
from gramian.surgery import welore


def planted(ranks, size=30, noise=1e-3):
    """Layers of known ranks, their other singular values small."""
    layers, generator = [], torch.Generator().manual_seed(0)
    for rank in ranks:
        u, v = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
        s = torch.cat((torch.linspace(1, 0.5, rank), noise * torch.linspace(1, 0.5, size - rank)))
        layer = nn.Linear(size, size)
        with torch.no_grad():
            layer.weight.copy_(u * s @ v)
        layers.append(layer)
    return nn.Sequential(*layers)


def test_planted_ranks_are_found_and_the_full_one_is_flagged():
    model = planted([3, 9, 30])
    reduction = float(np.mean([27 / 30, 21 / 30, 0]))
    plan = welore.plan(model, reduction)
    assert plan.ranks == {"0": 3, "1": 9, "2": 30}
    assert [c.kind for c in plan.components.values()] == ["LRC", "LRC", "N-LRC"]
    assert [c.pays for c in plan.components.values()] == [True, True, False]
    assert plan.reduction == pytest.approx(reduction)


def test_the_reduction_rises_with_the_target_and_is_reached():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 40), nn.Linear(40, 40))
    targets = np.linspace(0.1, 0.9, 9)
    plans = [welore.plan(model, float(t)) for t in targets]
    assert all(abs(p.reduction - t) < 0.02 for p, t in zip(plans, targets))
    thresholds = [p.threshold for p in plans]
    assert thresholds == sorted(thresholds)


def test_the_squared_error_of_the_allocators_is_least():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 30), nn.Linear(30, 20))
    with torch.no_grad():
        model[1].weight.mul_(4)
    spectra = welore.spectra_of(model)

    def error(ranks):
        return sum(float(s[ranks[n] :].square().sum()) for n, s in spectra.items())

    found = {s: welore.plan(model, 0.5, solver=s) for s in ("threshold", "greedy", "milp")}
    assert error(found["greedy"].ranks) <= error(found["threshold"].ranks)
    assert error(found["greedy"].ranks) <= error(dict.fromkeys(spectra, 10))
    assert error(found["milp"].ranks) == pytest.approx(error(found["greedy"].ranks), rel=1e-6)
    assert found["greedy"].reduction >= 0.5 - 1e-9


def test_only_low_rank_components_are_trained_and_all_comes_back():
    model = planted([3, 9, 30])
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    before = model(x)
    handle = welore.apply_plan(model, welore.plan(model, 0.5))
    assert isinstance(model[0], LowRankLinear)
    assert type(model[2]) is nn.Linear
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"0.up", "0.down", "1.up", "1.down"}
    assert (model(x) - before).abs().max() < 0.02
    handle.undo()
    assert torch.equal(model(x), before)
    assert model[0].weight.requires_grad


def test_everything_cuts_the_dense_ones_too():
    model = planted([3, 9, 30])
    plan = welore.plan(model, 0.6)
    with welore.apply_plan(model, plan, everything=True, freeze=False):
        ranks = [int(torch.linalg.matrix_rank(m.weight.detach(), rtol=1e-4)) for m in model]
    assert ranks == list(plan.ranks.values())


def test_a_tied_layer_is_planned_once():
    layer = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Linear(6, 6)})
    assert set(welore.spectra_of(model)) == {"a", "c"}


def test_what_cannot_be_is_refused():
    model = planted([3, 9])
    for reduction in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="reduction"):
            welore.plan(model, reduction)
    with pytest.raises(ValueError, match="without rank"):
        welore.plan(model, 0.99)
    with pytest.raises(ValueError, match="min_ratio"):
        welore.plan(model, 0.5, min_ratio=1.0)
    with pytest.raises(ValueError, match="lower min_ratio"):
        welore.apply_plan(model, welore.plan(model, 0.1, min_ratio=0.9))
    with pytest.raises(ValueError, match="lacks"):
        welore.apply_plan(nn.Sequential(nn.Linear(2, 2)), welore.plan(model, 0.5))
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.raises(ValueError, match="zeros"):
        welore.plan(model, 0.5)


def test_stable_rank_and_its_record():
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    s = torch.linalg.svdvals(x)
    assert stable_rank(x) == pytest.approx(float(s.square().sum() / s[0] ** 2), rel=1e-5)
    assert stable_rank(1e-30 * x) == pytest.approx(stable_rank(x), rel=1e-4)
    assert stable_rank(torch.zeros(2, 2)) == 0
    with pytest.raises(ValueError, match="NaN"):
        stable_rank(x * torch.nan)
    layer = nn.Linear(5, 4)
    record = GradientRanks(layer)
    layer(torch.ones(1, 5)).sum().backward()
    record.record()
    assert record.steps == {"weight": [pytest.approx(1.0)]}
    assert record.mean("weight") == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no matrix"):
        GradientRanks(layer, "bias")
    with pytest.raises(ValueError, match="recorded"):
        GradientRanks(layer).mean("weight")
