"""Maps, kernels and maps again."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.nn.hyperzzw import operators


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), size=st.integers(1, 6))
def test_global_operator_is_bilinear_and_a_sum_over_places(seed, size):
    x, fast = normal(2, 2, 3, size, size, seed=seed)
    weight = normal(3, size, size, seed=seed + 1)
    y = operators.hyperzzw_global(x, weight, fast)
    torch.testing.assert_close(y, torch.einsum("bcik,cik,bckj->bcij", x, weight, fast))
    torch.testing.assert_close(operators.hyperzzw_global(x, 3 * weight, -2 * fast), -6 * y)


def test_gradients():
    x, fast = normal(2, 1, 2, 3, 3).unbind()
    weight = normal(2, 3, 3, seed=1)
    tensors = [t.clone().requires_grad_() for t in (x, weight, fast)]
    assert torch.autograd.gradcheck(operators.hyperzzw_global, tensors)
    assert torch.autograd.gradcheck(operators.hyperzzw_elementwise, tensors[:2])
    assert torch.autograd.gradcheck(operators.hyperzzw_local, tensors[:2])


@pytest.mark.parametrize("size", [1, 3, 9])
def test_local_convolution_is_one_of_each_channel_by_itself(size):
    x, kernel = normal(2, 3, 6, 6), normal(3, size, size, seed=1)
    alone = [F.conv2d(x[:, [c]], kernel[c][None, None], padding=size // 2) for c in range(3)]
    torch.testing.assert_close(operators.hyperzzw_local(x, kernel), torch.cat(alone, 1))


def test_local_layer_is_its_formula_and_standardized_over_the_batch():
    layer = operators.HyperZZWLocal(3, 3, width=8, generator=torch.Generator().manual_seed(0)).double()
    z, x = normal(2, 4, 3, 6, 6)
    kernel = layer.slow(z)
    mixed = torch.einsum("oi,bihw->bohw", layer.mixer.weight[..., 0, 0], operators.hyperzzw_local(x, kernel))
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    with torch.no_grad():
        layer.bias.fill_(0.3)
    torch.testing.assert_close(layer(z, x), F.gelu((mixed - mean) / (variance + 1e-5).sqrt()) + 0.3)
    layer.eval()
    together = layer(z, x)
    torch.testing.assert_close(torch.cat([layer(z[[i]], x[[i]]) for i in range(4)]), together)


def test_bad_arguments_are_refused():
    x = normal(1, 2, 4, 4)
    with pytest.raises(ValueError, match="not square"):
        operators.hyperzzw_global(x[..., :3], normal(2, 4, 3), x[..., :3])
    with pytest.raises(ValueError, match=r"kernel of \(2, 3, 3\)"):
        operators.hyperzzw_global(x, normal(2, 3, 3), x)
    with pytest.raises(ValueError, match="fast maps"):
        operators.hyperzzw_global(x, normal(2, 4, 4), normal(1, 2, 3, 3))
    with pytest.raises(ValueError, match="must be equal"):
        operators.hyperzzw_elementwise(normal(2, 5), normal(4))
    with pytest.raises(ValueError, match="no centre"):
        operators.hyperzzw_local(x, normal(2, 4, 4))
    with pytest.raises(ValueError, match="no centre"):
        operators.HyperZZWLocal(2, 4)
    with pytest.raises(ValueError, match="3 kernels for 2 channels"):
        operators.hyperzzw_local(x, normal(3, 3, 3))
