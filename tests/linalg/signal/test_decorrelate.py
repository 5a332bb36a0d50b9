import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.linalg.signal.decorrelate import decorrelating_basis, step_correlation


def generator():
    return torch.Generator().manual_seed(0)


@given(st.integers(2, 12), st.integers(1, 3))
def test_the_basis_is_orthogonal_and_diagonalizes(size, channels):
    series = torch.randn(120, channels, generator=generator()).cumsum(0)
    correlation = step_correlation(series, size)
    Q, variances = decorrelating_basis(correlation)
    assert torch.allclose(Q.mT @ Q, torch.eye(size, dtype=Q.dtype), atol=1e-10)
    assert torch.allclose(Q.mT @ correlation @ Q, torch.diag(variances), atol=1e-10)
    assert bool((variances.diff() <= 1e-12).all())
    assert torch.equal(correlation.diagonal(), torch.ones(size, dtype=torch.float64))


def test_one_channels_correlation_is_numpys():
    series = torch.randn(50, 1, generator=generator())
    steps = series[:, 0].double().unfold(0, 5, 1)
    assert torch.allclose(step_correlation(series, 5), torch.corrcoef(steps.mT), atol=1e-12)


def test_series_without_a_correlation_are_refused():
    with pytest.raises(ValueError, match="constant"):
        step_correlation(torch.ones(50, 1), 4)
    with pytest.raises(ValueError, match="too few"):
        step_correlation(torch.randn(5, 1), 4)
    with pytest.raises(ValueError, match="NaN"):
        step_correlation(torch.full((20, 1), torch.nan), 4)
    with pytest.raises(ValueError, match="symmetric"):
        decorrelating_basis(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
