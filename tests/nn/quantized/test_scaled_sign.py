"""Layers of signs, scales and shifts."""

import torch

from gramian.nn.quantized.scaled_sign import SignLinear, straight_sign


def test_all_three_are_trained_and_the_sign_passes_gradients():
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = SignLinear(weight)
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layer(x).square().sum().backward()
    outward = 2 * layer(x).detach()
    dense = outward.T @ x
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    torch.testing.assert_close(layer.weight.grad, dense * layer.alpha.detach())
    torch.testing.assert_close(layer.alpha.grad, (dense * signs).sum(0))
    torch.testing.assert_close(layer.beta.grad, dense.sum(0))


def test_the_sign_of_zero_is_one():
    assert straight_sign(torch.tensor([-0.0, 0.0, -2.0])).tolist() == [1.0, 1.0, -1.0]


def test_packing_takes_a_bit_a_weight():
    layer = SignLinear(torch.randn(256, 512, generator=torch.Generator().manual_seed(0)), torch.ones(256))
    packed = layer.to_packed()
    assert packed.nbytes == 256 * 512 // 8 + 4 * (512 + 512 + 256)
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(1))
    for form in (packed, packed.merged(), layer.merged()):
        torch.testing.assert_close(form(x), layer(x), atol=1e-4, rtol=1e-4)
