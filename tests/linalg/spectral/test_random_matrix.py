import pytest
import torch

from gramian.linalg.spectral.random_matrix import (
    semicircle_density,
    semicircle_edge,
    spiked_eigenvalues,
    spiked_overlaps,
)  # fmt: skip


def wigner(size, noise, seed):
    w = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * noise
    return torch.triu(w) + torch.triu(w, 1).mT


def test_spikes_and_edges_against_eigh():
    size, noise = 800, 0.1
    spikes = torch.tensor([9.0, 5.0, 1.0, -6.0], dtype=torch.float64)
    h = torch.zeros(size, dtype=torch.float64)
    h[:4] = spikes
    values, vectors = torch.linalg.eigh(torch.diag(h) + wigner(size, noise, 0))
    predicted = spiked_eigenvalues(spikes, noise, size)
    torch.testing.assert_close(values[[-1, -2]], predicted[:2], rtol=0.02, atol=0)
    assert abs(float(values[-3] - predicted[2])) < 0.03 * semicircle_edge(noise, size)
    assert abs(float(values[0] - predicted[3])) < 0.02 * 6
    assert abs(float(vectors[0, -1] ** 2 - spiked_overlaps(spikes, noise, size)[0])) < 0.03
    assert float(spiked_overlaps(spikes, noise, size)[2]) == 0


def test_density_is_the_histogram():
    size, noise = 600, 0.2
    values = torch.linalg.eigvalsh(wigner(size, noise, 1))
    grid = torch.linspace(-10, 10, 41, dtype=torch.float64)
    counts = torch.histogram(values, bins=grid, density=True).hist
    middle = (grid[1:] + grid[:-1]) / 2
    density = semicircle_density(middle, noise, size)
    assert float((counts - density).abs().max()) < 0.015
    fine = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    assert abs(float(torch.trapezoid(semicircle_density(fine, noise, size), fine)) - 1) < 1e-3


def test_continuity_at_the_threshold_and_no_noise():
    half = semicircle_edge(1.0, 4) / 2
    at = spiked_eigenvalues(torch.tensor([half * (1 + 1e-6), half * (1 - 1e-6)], dtype=torch.float64), 1.0, 4)
    assert abs(float(at[0] - at[1])) < 1e-9
    torch.testing.assert_close(spiked_eigenvalues(torch.tensor([3.0, -2.0]), 0.0, 9), torch.tensor([3.0, -2.0]))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="noise"):
        semicircle_edge(-1.0, 3)
    with pytest.raises(ValueError, match="size"):
        semicircle_edge(1.0, 0)
    with pytest.raises(ValueError, match="NaN"):
        spiked_eigenvalues(torch.tensor([float("nan")]), 1.0, 3)
    with pytest.raises(ValueError, match="density"):
        semicircle_density(torch.zeros(2), 0.0, 3)
