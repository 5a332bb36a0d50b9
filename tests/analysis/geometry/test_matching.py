import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from gramian.analysis.geometry import matching
from gramian.analysis.geometry.paired import PairedStatistics


def correlated(samples, units, generator):
    mix = torch.randn(units, units, generator=generator, dtype=torch.float64)
    return torch.randn(samples, units, generator=generator, dtype=torch.float64) @ mix


def stats_of(x, y):
    stats = PairedStatistics()
    stats.update(x, y)
    return stats


def test_an_assignment_is_the_best_of_all_permutations():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        c = torch.rand(6, 6, generator=generator, dtype=torch.float64) * 2 - 1
        best = max(sum(c[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6)))
        found = matching.match_units(c, "assign")
        assert float(found.values.sum()) == pytest.approx(float(best))
        assert sorted(found.second.tolist()) == list(range(6))
        semi = matching.match_units(c, "semi")
        assert torch.equal(semi.values, c.amax(1))
        assert semi.values.mean() >= found.values.mean()


def test_networks_of_different_widths_leave_units_over():
    c = torch.rand(7, 4, generator=torch.Generator().manual_seed(1))
    found = matching.match_units(c)
    assert len(found.first) == 4
    assert len(set(found.first.tolist())) == 4
    assert torch.equal(found.values, c[found.first, found.second])


def test_bad_matchings_are_refused():
    with pytest.raises(ValueError, match="neither 'semi' nor 'assign'"):
        matching.match_units(torch.eye(2), "greedy")
    with pytest.raises(ValueError, match="finite"):
        matching.match_units(torch.full((2, 2), torch.nan))
    with pytest.raises(ValueError, match="finite"):
        matching.match_units(torch.zeros(0, 3))


def test_the_lasso_on_moments_is_sklearns_on_rows():
    from sklearn.linear_model import Lasso

    generator = torch.Generator().manual_seed(2)
    x = correlated(150, 12, generator)
    y = x[:, :3] @ torch.randn(3, 4, generator=generator, dtype=torch.float64) + 2
    stats = stats_of(x, y)
    found = matching.sparse_predict(stats.x.covariance, stats.cross.covariance, (0.05, 2.0, 0.4))
    assert found.alphas.tolist() == [2.0, 0.4, 0.05]
    for weights, alpha in zip(found.weights, found.alphas, strict=True):
        model = Lasso(alpha=float(alpha), tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy())
        assert np.abs(weights.numpy() - model.coef_.T).max() < 1e-6
    assert (found.used[1:] >= found.used[:-1]).all()
    share = matching.explained(found.weights, stats.x.covariance, stats.cross.covariance, stats.y.variance)
    residual = (y - y.mean(0)) - (x - x.mean(0)) @ found.weights[2]
    assert torch.allclose(share[2], 1 - residual.square().mean(0) / y.var(0, correction=0))
    dense = matching.dense_predict(stats.x.covariance, stats.cross.covariance)
    exact = matching.explained(dense, stats.x.covariance, stats.cross.covariance, stats.y.variance)
    assert torch.allclose(exact, torch.ones(4, dtype=torch.float64), atol=1e-8)


def test_a_penalty_above_every_correlation_selects_nothing():
    stats = stats_of(*(correlated(50, 4, torch.Generator().manual_seed(s)) for s in (3, 4)))
    found = matching.sparse_predict(stats.x.covariance, stats.cross.covariance, [1e4])
    assert not found.weights.any()
    assert not found.gaps.any()


def test_too_few_sweeps_are_said():
    stats = stats_of(*(correlated(50, 8, torch.Generator().manual_seed(s)) for s in (3, 4)))
    with pytest.warns(matching.SparsePredictionNotConverged, match="after 1 sweeps"):
        matching.sparse_predict(stats.x.covariance, stats.cross.covariance, [1e-4], max_sweeps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matching.sparse_predict(stats.x.covariance, stats.cross.covariance, [0.1])


def test_bad_predictions_are_refused():
    within, cross = torch.eye(3), torch.ones(3, 2)
    for bad in ([], [0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="must be positive"):
            matching.sparse_predict(within, cross, bad)
    with pytest.raises(ValueError, match="their first axes"):
        matching.sparse_predict(torch.eye(2), cross, [1.0])
    with pytest.raises(ValueError, match="NaN"):
        matching.sparse_predict(within, cross / 0, [1.0])
    with pytest.raises(ValueError, match="no variance"):
        matching.sparse_predict(torch.diag(torch.tensor([1.0, 0.0, 1.0])), cross, [1.0])
    with pytest.raises(ValueError, match="nothing to explain"):
        matching.explained(cross, within, cross, torch.zeros(2))


def planted(generator, sizes=(4, 5, 6), samples=500):
    factors = torch.randn(samples, len(sizes), generator=generator)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    sign = torch.randint(0, 2, (len(labels),), generator=generator) * 2 - 1
    return factors[:, labels] * sign + 0.5 * torch.randn(samples, len(labels), generator=generator), labels


def test_planted_groups_are_found_and_counted():
    from sklearn.metrics import adjusted_rand_score

    generator = torch.Generator().manual_seed(5)
    x, labels = planted(generator)
    order = torch.randperm(len(labels), generator=generator)
    stats = stats_of(x[:, order[:7]], x[:, order[7:]])
    found = matching.cocluster(stats.joint_correlation)
    assert found.suggested == 3
    assert adjusted_rand_score(labels[order], found.labels) == 1
    assert len(set(matching.cocluster(stats.joint_correlation, 5).labels.tolist())) == 5


def test_bad_groupings_are_refused():
    c = torch.eye(4) * 0.5 + 0.5
    for k in (1, 5):
        with pytest.raises(ValueError, match="between 2 and the number"):
            matching.cocluster(c, k)
    with pytest.raises(ValueError, match="symmetric"):
        matching.cocluster(torch.tensor([[1.0, 0.2, 0.3], [0.9, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="finite square"):
        matching.cocluster(torch.ones(2, 2))
    with pytest.raises(ValueError, match="finite square"):
        matching.cocluster(torch.ones(4, 3))


def test_statistics_of_two_networks_leave_them_as_found():
    first = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Tanh())
    second = nn.Sequential(nn.Linear(6, 3), nn.Tanh()).train()
    before = {k: v.clone() for k, v in first.state_dict().items()}
    x = torch.randn(40, 6)
    stats = matching.unit_stats(first, second, x.split(16), ("3", "1"))
    assert first.training
    assert second.training
    assert first[2].training
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items())
    wanted = torch.corrcoef(torch.cat((first.eval()(x), second(x)), 1).double().T)
    assert torch.allclose(stats.joint_correlation, wanted, atol=1e-6)
    first.train()
    with pytest.raises(ValueError, match="names 4 modules"):
        matching.unit_stats(first, second, [x], ("?", "1"))
    assert first.training
    with pytest.raises(ValueError, match="no batch"):
        matching.unit_stats(first, second, [], ("3", "1"))


def test_every_position_of_a_convolution_is_a_sample():
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 2, 3)
    images = torch.randn(5, 1, 8, 8)
    stats = matching.unit_stats(nn.Sequential(first), nn.Sequential(second), [images], ("0", "0"), reduce="places")
    assert stats.count == 5 * 36
    assert stats.correlation.shape == (4, 2)
    wider = nn.Sequential(nn.Conv2d(1, 2, 1))
    with pytest.raises(ValueError, match="180 and 320 samples"):
        matching.unit_stats(nn.Sequential(first), wider, [images], ("0", "0"), reduce="places")
