import copy

import pytest
import torch
from torch import nn

from gramian.surgery import unlearn


def problem():
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    x, y = torch.randn(40, 4, generator=g), torch.randint(0, 3, (40,), generator=g)
    return model, x, y, unlearn.total_fisher(model, [(x, y)])


def test_new_weights_are_those_of_a_loop_bit_for_bit():
    model, x, y, full = problem()
    forget = unlearn.total_fisher(model, [(x[:10], y[:10])])
    want = {}
    for name, p in model.named_parameters():
        flat, f, d = p.detach().flatten().clone(), forget[name].flatten(), full[name].flatten()
        for i in range(len(flat)):
            if f[i] > 2.0 * d[i]:
                flat[i] = flat[i] * torch.clamp(0.7 * d[i] / f[i], max=1)
        want[name] = flat.view_as(p)
    report = unlearn.ssd(model, [(x[:4], y[:4]), (x[4:10], y[4:10])], full, 2.0, 0.7)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), want[name], rtol=1e-6, atol=0)
    again, *_ = problem()
    unlearn.ssd(again, forget, full, 2.0, 0.7)
    assert all(p.equal(want[n]) for n, p in again.named_parameters())
    assert 0 < report.n_selected < 43
    assert report.share == report.n_selected / 43


def test_a_huge_dampening_leaves_the_bits():
    model, x, y, full = problem()
    before = copy.deepcopy(model.state_dict())
    assert unlearn.ssd(model, [(x[:10], y[:10])], full, 1.5, 1e30).n_selected
    assert all(p.equal(before[n]) for n, p in model.state_dict().items())


def test_a_threshold_at_the_ratio_of_sizes_selects_nothing_and_warns():
    model, x, y, full = problem()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(unlearn.NothingSelected, match="selects nothing"):
        assert unlearn.ssd(model, [(x[:10], y[:10])], full, 4.001).n_selected == 0
    assert all(p.equal(before[n]) for n, p in model.state_dict().items())


def test_auto_takes_a_share():
    model, x, y, full = problem()
    report = unlearn.ssd(model, [(x[:10], y[:10])], full, "auto", quantile=0.8)
    assert report.share == pytest.approx(0.2, abs=0.06)


def test_the_full_fisher_is_kept_in_a_file(tmp_path):
    model, x, y, full = problem()
    path = tmp_path / "full.safetensors"
    first = unlearn.total_fisher(model, [(x, y)], cache=path)
    second = unlearn.total_fisher(model, iter(()), cache=path)
    assert all(first[n].equal(second[n]) for n in full)
    with pytest.raises(ValueError, match="another architecture"):
        unlearn.total_fisher(nn.Linear(2, 2), [], cache=path)


def test_bad_input_is_refused():
    model, x, y, full = problem()
    forget = [(x[:10], y[:10])]
    for options in ({"alpha": 0.0}, {"alpha": -1.0}, {"dampening": 0.0}, {"quantile": 1.0}):
        with pytest.raises(ValueError, match="must be positive"):
            unlearn.ssd(model, forget, full, **options)
    with pytest.raises(ValueError, match="no data"):
        unlearn.ssd(model, [], full)
    with pytest.raises(ValueError, match="hold no sample"):
        unlearn.ssd(model, [(x[:0], y[:0])], full)
    with pytest.raises(ValueError, match="no trainable parameter"):
        unlearn.ssd(model, forget, full | {"9.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="another architecture"):
        unlearn.ssd(model, forget, full | {"0.bias": torch.ones(4)})
    with pytest.raises(ValueError, match="negative"):
        unlearn.ssd(model, forget, full | {"0.bias": -torch.ones(5)})
    with pytest.raises(ValueError, match="nothing to forget"):
        unlearn.ssd(model, {n: torch.zeros_like(f) for n, f in full.items()}, full)
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        unlearn.ssd(norm, forget, {n: torch.ones_like(p) for n, p in norm.named_parameters()})
