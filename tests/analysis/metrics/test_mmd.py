import pytest
import torch

from gramian.analysis.metrics import mmd


def draw(count, seed, shift=0.0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)) + shift


def test_it_is_the_mean_of_kernels_over_pairs():
    x, y, total = draw(5, 0), draw(4, 1), 0.0

    def kernel(a, b):
        return float(torch.exp(-(a - b).square().sum() / (2 * 0.7**2)))

    total += sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / 20
    total += sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
    total -= 2 * sum(kernel(a, b) for a in x for b in y) / 20
    assert abs(mmd.mmd_squared(x, y, 0.7) - total) < 1e-6


def test_it_matches_the_closed_form_of_two_normals():
    # E k of normals a shift apart: (h² / (h² + 2)) exp(−shift² / (2 (h² + 2))) in two dimensions
    found = mmd.mmd_squared(draw(3000, 0), draw(3000, 1, 1.0), 1.0)
    exact = 2 / 3 * (1 - torch.exp(torch.tensor(-2.0 / 6)))
    assert abs(found - float(exact)) < 0.02
    assert abs(mmd.mmd_squared(draw(3000, 0), draw(3000, 1), 1.0)) < 0.002


def test_too_few_samples_and_bad_bandwidths_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mmd.mmd_squared(draw(1, 0), draw(3, 0), 1.0)
    with pytest.raises(ValueError, match="positive"):
        mmd.mmd_squared(draw(3, 0), draw(3, 0), 0.0)
    with pytest.raises(ValueError, match="at least 2"):
        mmd.median_distance(draw(1, 0))
