import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.geometry import fourier_neurons
from gramian.linalg.symmetry import irreps


@settings(max_examples=15)
@given(frequency=st.integers(1, 5), phase=st.floats(-3, 3), scale=st.floats(0.1, 5))
def test_a_cosine_is_recognized(frequency, phase, scale):
    wave = scale * torch.cos(2 * math.pi * frequency * torch.arange(11) / 11 + phase) + 3.0
    found = fourier_neurons.dominant_frequency(wave[None])
    assert int(found.frequency) == frequency
    assert float(found.share) == pytest.approx(1, abs=1e-5)
    assert float(found.phase) == pytest.approx(phase, abs=1e-4)


@pytest.mark.parametrize("elements", [12, 13])
def test_shares_are_those_of_the_powers(elements):
    x = 2 * math.pi * torch.arange(elements, dtype=torch.float64) / elements
    for other in range(2, elements // 2 + 1):
        wave = 2 * x.cos() + (other * x).cos()
        power = float((other * x).cos().square().sum())
        expected = 4 * elements / 2 / (4 * elements / 2 + power)
        assert float(fourier_neurons.dominant_frequency(wave[None]).share) == pytest.approx(expected)


def test_phases_that_add_up_have_no_residual():
    generator = torch.Generator().manual_seed(0)
    a, b = (20 * torch.rand(2, 50, generator=generator, dtype=torch.float64) - 10).unbind()
    assert fourier_neurons.phase_residual(a, b, a + b + 2 * math.pi).max() < 1e-12
    assert fourier_neurons.phase_residual(a, b, a + b + math.pi).min() > 3.1415


def test_shares_of_all_irreps_add_up_to_one():
    shapes = irreps.partitions(4)
    representations = [irreps.irreducible(s) for s in shapes]
    rows = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    shares = fourier_neurons.irrep_concentration(rows, representations)
    torch.testing.assert_close(shares.sum(1), torch.ones(6, dtype=torch.float64))
    pure = fourier_neurons.irrep_concentration(representations[1][:, 0, 2][None], representations)[0]
    assert pure.argmax() == 1
    assert pure[1] == pytest.approx(1)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least three"):
        fourier_neurons.dominant_frequency(torch.ones(1, 2))
    with pytest.raises(ValueError, match="row 1 is constant"):
        fourier_neurons.dominant_frequency(torch.tensor([[1.0, 2, 3], [0, 0, 0]]))
    with pytest.raises(ValueError, match="one matrix for each"):
        fourier_neurons.irrep_concentration(torch.ones(1, 5), [irreps.irreducible((2, 1))])
    with pytest.raises(ValueError, match="row 0 is zero"):
        fourier_neurons.irrep_concentration(torch.zeros(1, 6), [irreps.irreducible((2, 1))])
