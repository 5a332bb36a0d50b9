import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.linalg.signal.period import dominant_periods, fold, unfold


@given(st.integers(2, 30), st.integers(1, 40))
def test_unfolding_undoes_folding(length, period):
    x = torch.randn(2, length, 3, generator=torch.Generator().manual_seed(length))
    plane = fold(x, period)
    assert plane.shape == (2, 3, -(-length // period), period)
    assert torch.equal(unfold(plane, length), x)
    assert float(plane.flatten(2)[..., length:].abs().sum()) == 0


def test_amplitudes_are_each_samples_own_and_carry_gradients():
    t = torch.arange(60.0)
    x = torch.stack([torch.sin(2 * torch.pi * t / 10), 3 * torch.sin(2 * torch.pi * t / 20)])[..., None]
    x.requires_grad_()
    periods, amplitudes = dominant_periods(x, 2)
    assert periods.tolist() == [20, 10]
    assert torch.allclose(amplitudes, torch.tensor([[0.0, 30.0], [90.0, 0.0]]), atol=1e-3)
    amplitudes.sum().backward()
    assert float(x.grad.abs().sum()) > 0


def test_a_level_is_no_period():
    t = torch.arange(24.0)[None, :, None]
    assert dominant_periods(1000 + torch.sin(2 * torch.pi * t / 8), 1)[0].tolist() == [8]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="between 1 and 5"):
        dominant_periods(torch.randn(1, 10, 1), 6)
    with pytest.raises(ValueError, match="do not vary"):
        dominant_periods(torch.zeros(2, 10, 1), 1)
