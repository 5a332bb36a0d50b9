import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.geometry.paired import CrossCovariance, PairedStatistics


def data(samples=60, first=5, second=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, first, generator=generator, dtype=torch.float64) + 1000
    return x, x[:, :second] * 0.5 + torch.randn(samples, second, generator=generator, dtype=torch.float64)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 5))
def test_batches_in_any_cut_give_what_all_rows_give(sizes, split):
    x, y = data(sum(sizes))
    shards = PairedStatistics(), PairedStatistics()
    for i, (a, b) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
        shards[i >= split].update(a, b)
    shards[0].merge(shards[1])
    assert shards[0].count == len(x)
    both = torch.cat((x, y), 1)
    wanted = torch.cov(both.T, correction=0)
    assert torch.allclose(shards[0].cross.covariance, wanted[:5, 5:], atol=1e-9)
    assert torch.allclose(shards[0].x.covariance, wanted[:5, :5], atol=1e-9)
    assert torch.allclose(shards[0].y.covariance, wanted[5:, 5:], atol=1e-9)


def test_correlations_are_numpys():
    x, y = data()
    stats = PairedStatistics()
    stats.update(x.float(), y.float())
    wanted = torch.corrcoef(torch.cat((x.float(), y.float()), 1).double().T)
    assert torch.allclose(stats.correlation, wanted[:5, 5:], atol=1e-9)
    assert torch.allclose(stats.joint_correlation, wanted, atol=1e-9)


def test_units_that_do_not_vary_are_refused_until_left_out():
    x, y = data()
    x[:, 2], y[:, 0] = 0.1, 0
    stats = PairedStatistics()
    for a, b in zip(x.split(7), y.split(7), strict=True):
        stats.update(a, b)
    with pytest.raises(ValueError, match="1 and 1 units have the same value"):
        _ = stats.correlation
    alive, kept_x, kept_y = stats.alive()
    assert kept_x.tolist() == [0, 1, 3, 4]
    assert kept_y.tolist() == [1, 2]
    fresh = PairedStatistics()
    fresh.update(x[:, kept_x], y[:, kept_y])
    assert torch.allclose(alive.correlation, fresh.correlation)
    assert torch.allclose(alive.joint_correlation, fresh.joint_correlation)
    y[:] = 3
    stats = PairedStatistics()
    stats.update(x, y)
    with pytest.raises(ValueError, match="every unit of one side"):
        stats.alive()


def test_what_does_not_pair_is_refused_and_leaves_no_trace():
    x, y = data()
    stats = PairedStatistics()
    with pytest.raises(ValueError, match="60 and 59 samples"):
        stats.update(x, y[1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        stats.update(x, y / 0)
    assert stats.count == 0
    assert stats.x.count == 0
    with pytest.raises(ValueError, match="needs two at least"):
        _ = stats.correlation
    cross = CrossCovariance()
    with pytest.raises(ValueError, match="no sample"):
        _ = cross.covariance
    cross.update(x, y)
    assert cross.nbytes == 8 * (5 + 3 + 15)
    with pytest.raises(ValueError, match="do not join"):
        cross.update(x[:, :4], y)
