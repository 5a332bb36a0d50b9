import math

import numpy as np
import pytest
import torch
from scipy import integrate

from gramian.linalg.spectral.covariance import (
    fit_noise,
    marchenko_pastur_cdf,
    marchenko_pastur_edges,
    spiked_covariance,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ratio", [0.05, 0.6, 1.0, 3.0])
def test_the_distribution_has_unit_mass_and_the_known_mean(ratio):
    low, high = marchenko_pastur_edges(ratio)
    assert marchenko_pastur_cdf(low, ratio) == 0
    assert marchenko_pastur_cdf(high - 1e-12, ratio) == pytest.approx(1, abs=1e-6)
    # E[x] = high − ∫ F; of all eigenvalues the mean is 1, and the nonzero ones are a share min(1, 1/γ) of them
    x = np.linspace(low, high, 400)
    mean = high - integrate.simpson([marchenko_pastur_cdf(v, ratio) for v in x], x=x)
    assert mean == pytest.approx(max(1.0, ratio), rel=1e-3)


def test_the_distribution_is_that_of_a_large_sample():
    for shape in ((1200, 300), (300, 900)):
        x = normal(*shape)
        values = torch.linalg.svdvals(x).square().numpy() / shape[0]
        ratio = shape[1] / shape[0]
        for q in (0.1, 0.5, 0.9):
            assert marchenko_pastur_cdf(float(np.quantile(values, q)), ratio) == pytest.approx(q, abs=0.01)
        low, high = marchenko_pastur_edges(ratio)
        assert values.max() == pytest.approx(high, rel=0.03)
        assert values.min() == pytest.approx(low, rel=0.06)


@pytest.mark.parametrize("shape", [(800, 200), (200, 200), (150, 450)])
def test_the_noise_is_found_among_spikes(shape):
    x = 3 * normal(*shape)
    x[:, :4] *= 10
    values = torch.linalg.eigvalsh(x.T @ x / shape[0])
    assert fit_noise(values, shape[1] / shape[0]) == pytest.approx(9, rel=0.05)


def test_spikes_at_and_below_the_threshold():
    ratio = 0.25
    values, overlaps = spiked_covariance(torch.tensor([1.5, 1.5001, 0.3, 8.0], dtype=torch.float64), ratio)
    edge = marchenko_pastur_edges(ratio)[1]
    assert values[:3].tolist() == pytest.approx([edge, edge, edge], abs=1e-6)
    assert overlaps[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert float(values[3]) == pytest.approx(8 * (1 + 0.25 / 7))
    scaled = spiked_covariance(torch.tensor([40.0], dtype=torch.float64), ratio, 5.0)
    assert float(scaled[0][0]) == pytest.approx(5 * float(values[3]))
    assert float(scaled[1][0]) == pytest.approx(float(overlaps[3]))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="ratio"):
        marchenko_pastur_edges(0)
    with pytest.raises(ValueError, match="variance"):
        marchenko_pastur_edges(0.5, math.inf)
    with pytest.raises(ValueError, match="median"):
        fit_noise(torch.zeros(5), 0.5)
    with pytest.raises(ValueError, match="spikes"):
        spiked_covariance(torch.tensor([-1.0]), 0.5)
