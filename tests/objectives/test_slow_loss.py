"""The distance of kernels of different depth."""

import pytest
import torch

from gramian.objectives.slow_loss import slow_loss


def kernel(channels, seed=0):
    return torch.randn(channels, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_whole_kernels_are_tiled_and_every_pair_counts():
    a, b, c = kernel(2), kernel(4, 1), kernel(8, 2)
    expected = (
        (torch.cat([a, a]) - b).square().mean()
        + (torch.cat([a, a, a, a]) - c).square().mean()
        + (torch.cat([b, b]) - c).square().mean()
    )
    torch.testing.assert_close(slow_loss([a, b, c]), expected)
    assert slow_loss([a, torch.cat([a, a])]) == 0
    assert slow_loss([a, a.repeat_interleave(2, 0)]) > 0


def test_gradients_reach_every_kernel():
    kernels = [kernel(c, c).requires_grad_() for c in (1, 2, 4)]
    assert torch.autograd.gradcheck(lambda *k: slow_loss(k), kernels)
    slow_loss(kernels).backward()
    assert all(k.grad.abs().max() > 0 for k in kernels)


def test_bad_kernels_are_refused():
    with pytest.raises(ValueError, match="needs two"):
        slow_loss([kernel(2)])
    with pytest.raises(ValueError, match="a multiple of those before"):
        slow_loss([kernel(2), kernel(3)])
    with pytest.raises(ValueError, match="planes must be alike"):
        slow_loss([kernel(2), kernel(2)[:, :2]])
