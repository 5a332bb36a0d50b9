import pytest
import torch
from torch import nn

from gramian.nn.mlp import TopKMLP, TopKReLU


def test_top_k_keeps_the_largest_and_passes_their_gradient():
    x = torch.randn(2, 7, 9, dtype=torch.float64, requires_grad=True)
    y = TopKReLU(3)(x)
    wanted = x.detach().relu()
    wanted = torch.where(wanted >= wanted.sort(-1).values[..., -3:-2], wanted, 0)
    torch.testing.assert_close(y, wanted)
    y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)
    apart = torch.arange(12.0, dtype=torch.float64).view(2, 6).sub(4.5).requires_grad_()
    assert torch.autograd.gradcheck(TopKReLU(2), (apart,))


def test_all_units_kept_is_a_relu_mlp():
    torch.manual_seed(0)
    layer = TopKMLP(4, 6, 6)
    plain = nn.Sequential(layer.up, nn.ReLU(), layer.down)
    x = torch.randn(5, 4)
    assert torch.equal(layer(x), plain(x))
    assert not torch.allclose(TopKMLP(4, 6, 1)(x), layer(x))
    with pytest.raises(ValueError, match="at least one"):
        TopKMLP(4, 6, 0)
