import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.linalg.factor import lowrank
from gramian.surgery.factorize import factorize, fwsvd, importance, spread_ranks


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 6))


def fisher_of(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator) for n, p in model.named_parameters()}


@pytest.mark.parametrize("side", ["in", "out", "two"])
def test_the_weighted_error_is_least_and_the_plain_one_is_not(side):
    model, plain = net(), net()
    fisher = fisher_of(model)
    weight = model[0].weight.detach().clone()
    row, column = importance(fisher["0.weight"])
    row, column = (None if side == "in" else row), (None if side == "out" else column)
    fwsvd(model, fisher, "0", ranks=4, side=side)
    factorize(plain, "0", ranks=4)
    ours, theirs = model[0].weight.detach(), plain[0].weight.detach()
    assert lowrank.weighted_error(weight, ours, row, column) < lowrank.weighted_error(weight, theirs, row, column)
    assert lowrank.weighted_error(weight, ours) > lowrank.weighted_error(weight, theirs)


def test_a_constant_fisher_is_the_plain_svd():
    model, plain = net(), net()
    fwsvd(model, {"0.weight": torch.ones(20, 12), "2.weight": torch.ones(6, 20)}, kept_ranks=0.5)
    report = factorize(plain, kept_ranks=0.5)
    assert report.ranks == {"0": 6, "2": 3}
    for i in (0, 2):
        assert torch.allclose(model[i].weight, plain[i].weight, atol=1e-5)


def test_full_rank_is_the_same_function_and_undo_restores_it():
    model = net()
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    before = model(x)
    report = fwsvd(model, fisher_of(model), ranks={"0": 12})
    assert torch.allclose(model(x), before, atol=1e-5)
    assert report.ranks == {"0": 12}
    assert report.before == 12 * 20 + 20 * 6
    assert report.after == 12 * (12 + 20) + 20 * 6
    report.handle.undo()
    assert torch.equal(model(x), before)


def test_merging_and_files(tmp_path):
    model = net()
    report = factorize(model, ranks=3)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    before = model(x)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = net(5)
    factorize(again, ranks=3)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again(x), before)
    report.handle.merge()
    assert type(model[0]) is nn.Linear
    assert torch.allclose(model(x), before, atol=1e-5)


def test_spread_ranks_fit_the_budget_and_beat_equal_shares():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(40))
        model[1].weight.copy_(torch.diag(0.8 ** torch.arange(40.0)))
    weights = [m.weight.detach().clone() for m in model]
    ranks = spread_ranks(model, 0.5)
    assert set(ranks) <= {"0", "1"}
    report = factorize(model, ranks=ranks)
    assert report.kept <= 0.5
    error = sum(float((m.weight - w).square().sum()) for m, w in zip(model, weights))
    report.handle.undo()
    factorize(model, ranks=10)  # 10 · 80 is half of 1600
    assert error < sum(float((m.weight - w).square().sum()) for m, w in zip(model, weights))


def test_what_cannot_be_is_refused():
    model, fisher = net(), fisher_of(net())
    with pytest.raises(ValueError, match="exactly one"):
        factorize(model)
    with pytest.raises(ValueError, match="kept_ranks"):
        factorize(model, kept_ranks=1.5)
    with pytest.raises(ValueError, match="0: rank=0"):
        factorize(model, ranks=0)
    with pytest.raises(ValueError, match="not there"):
        factorize(model, ranks={"7": 2})
    with pytest.raises(ValueError, match="side"):
        fwsvd(model, fisher, ranks=2, side="left")
    with pytest.raises(ValueError, match=r"lacks 0\.weight"):
        fwsvd(model, {}, ranks=2)
    with pytest.raises(ValueError, match="shape"):
        fwsvd(model, {"0.weight": torch.ones(3, 3)}, "0", ranks=2)
    with pytest.raises(ValueError, match="at least 0"):
        importance(-torch.ones(2, 2))
    with pytest.raises(ValueError, match="zero"):
        importance(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="floor above 0"):
        importance(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), floor=0)
    with pytest.raises(ValueError, match="share"):
        spread_ranks(model, 1.0)
    with pytest.raises(ValueError, match="smallest"):
        spread_ranks(model, 0.01)
    with pytest.raises(TypeError, match="convolution"):
        factorize(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(2, 2)), ("0", "1"), ranks=1)
