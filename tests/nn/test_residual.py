import pytest
import torch
from torch import nn

from gramian.nn.residual import ACTIVATIONS, Centred, ResidualBlock


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_centred_activations_have_no_mean_and_differentiate(activation):
    h = torch.randn(3, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer = Centred(activation)
    assert float(layer(h).mean(-1).abs().max().detach()) < 1e-15
    assert torch.autograd.gradcheck(layer, h)


def test_block_adds_its_branch():
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    branch = nn.Linear(5, 5)
    torch.testing.assert_close(ResidualBlock(branch, 0.25)(x), x + branch(x) / 4)
    torch.testing.assert_close(ResidualBlock(branch, 0)(x), x)


def test_errors():
    with pytest.raises(ValueError, match="activation"):
        Centred("gelu")
    with pytest.raises(ValueError, match="multiplier"):
        ResidualBlock(nn.Identity(), float("inf"))
