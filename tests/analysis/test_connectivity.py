import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.analysis import connectivity
from gramian.analysis.connectivity import StaleStatistics


def net(seed, *extra, width=7):
    torch.manual_seed(seed)
    layers = [nn.Linear(4, width), *extra, nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)]
    return nn.Sequential(*layers).double()


def batches(parts=1):
    g = torch.Generator().manual_seed(9)
    return [
        (torch.randn(20, 4, generator=g, dtype=torch.float64), torch.randint(3, (20,), generator=g))
        for _ in range(parts)
    ]


def loss(module, x, y):
    return F.cross_entropy(module(x), y)


def test_identity_is_the_direct_evaluation():
    a, b, data = net(0), net(1), batches()
    direct = connectivity.barrier(a, b, loss, data, 3)
    assert abs(connectivity.barrier_identity(a, b, loss, data[0]) - direct.middle) < 1e-9
    assert direct.height >= 0
    assert float(direct.excess[0]) == 0


def test_predictor_is_exact_in_the_limit_and_for_quadratics():
    a, data = net(0), batches()
    b = copy.deepcopy(a)
    with torch.no_grad():
        for p in b.parameters():
            p.add_(0.02 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    direct = connectivity.barrier(a, b, loss, data, 3).middle
    assert abs(connectivity.predicted_barrier(a, b, loss, data[0])[""] / direct - 1) < 0.05
    layers = ["0", "2", "4"]
    predicted = connectivity.predicted_barrier(a, b, loss, data[0], layers)
    measured = connectivity.layerwise_barrier(a, b, loss, data, layers, points=3)
    scale = max(abs(m.middle) for m in measured.values())
    for name in layers:
        assert abs(predicted[name] - measured[name].middle) < 0.05 * scale


def test_several_batches_are_weighted_by_size():
    a, b, data = net(0), net(1), batches(3)
    joined = [tuple(torch.cat(parts) for parts in zip(*data, strict=True))]
    uneven = [tuple(t[:7] for t in joined[0]), tuple(t[7:] for t in joined[0])]
    one, two = (connectivity.barrier(a, b, loss, d, 5).loss for d in (joined, uneven))
    torch.testing.assert_close(one, two)


def test_statistics_are_recomputed_and_models_left_alone():
    a, b, data = net(0, nn.BatchNorm1d(7)), net(1, nn.BatchNorm1d(7)), batches(2)
    before = copy.deepcopy(a.state_dict())
    with pytest.warns(StaleStatistics, match="calibration"):
        connectivity.interpolate(a, b, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        middle = connectivity.interpolate(a, b, 0.5, data)
    hidden = torch.cat([middle[0](x) for x, _ in data]).detach()
    torch.testing.assert_close(middle[1].running_mean, hidden.mean(0))
    assert middle[1].momentum == 0.1
    assert a.training
    assert not middle.training
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_permuted_units_compute_the_same_and_are_found_again():
    a, data = net(0), batches()
    g = torch.Generator().manual_seed(3)
    b = connectivity.permute_hidden_units(a, [torch.randperm(7, generator=g) for _ in range(2)])
    torch.testing.assert_close(b(data[0][0]), a(data[0][0]))
    assert connectivity.barrier(a, b, loss, data).height > 1e-3
    aligned = connectivity.align_hidden_units(a, b, generator=g)
    assert connectivity.barrier(a, aligned, loss, data).height < 1e-12
    far = connectivity.align_hidden_units(a, net(5), generator=g)
    torch.testing.assert_close(far(data[0][0]), net(5)(data[0][0]))


def test_split_pairs_share_their_start():
    calls = []

    def train(model, seed, epochs):
        calls.append((seed, epochs))
        with torch.no_grad():
            model[0].bias.add_(seed + 1e-3 * epochs)

    model = net(0)
    pairs = connectivity.split_experiment(train, model, [0, 2, 3], 3)
    assert calls == [(1000, 3), (2000, 3), (0, 2), (1000, 1), (2000, 1), (2, 1)]
    torch.testing.assert_close(pairs[3][0][0].bias, pairs[3][1][0].bias)
    assert not torch.allclose(pairs[0][0][0].bias, pairs[0][1][0].bias)
    torch.testing.assert_close(model[0].bias, net(0)[0].bias)


def test_bad_input_is_refused():
    a, b, data = net(0), net(1), batches()
    with pytest.raises(ValueError, match="architecture"):
        connectivity.barrier(a, net(0, width=5), loss, data)
    for grid in ([0.1, 0.5, 1.0], [0.0, 0.5], [0.0, 0.7, 0.5, 1.0], 2):
        with pytest.raises(ValueError, match="grid"):
            connectivity.barrier(a, b, loss, data, grid)
    with pytest.raises(ValueError, match="starts with"):
        connectivity.barrier(a, b, loss, data, only="head")
    with pytest.raises(ValueError, match="starts with"):
        connectivity.predicted_barrier(a, b, loss, data[0], ["head"])
    with pytest.raises(ValueError, match="no batch"):
        connectivity.barrier(a, b, loss, [])
    with pytest.raises(ValueError, match="splits"):
        connectivity.split_experiment(lambda *_: None, a, [5], 3)
    with pytest.raises(ValueError, match="chains"):
        connectivity.align_hidden_units(net(0, nn.BatchNorm1d(7)), net(1, nn.BatchNorm1d(7)))
    with pytest.raises(ValueError, match="each of them once"):
        connectivity.permute_hidden_units(a, [torch.zeros(7, dtype=torch.long)] * 2)
    with pytest.raises(ValueError, match="as many orders"):
        connectivity.permute_hidden_units(a, [])
