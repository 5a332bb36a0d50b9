import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant.affine import dequantize_affine, quantize_affine


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 8))
def test_rounding_is_within_half_a_step(seed, bits):
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    blocks = quantize_affine(x, bits, 8)
    error = (dequantize_affine(blocks, (4, 16)) - x).abs().reshape(-1, 8)
    assert (error <= blocks.step[:, None] / 2 + 1e-12).all()
    assert blocks.codes.max() <= 2**bits - 1


def test_what_is_on_the_grid_comes_back():
    codes = torch.randint(0, 16, (6, 32), generator=torch.Generator().manual_seed(0))
    codes[:, 0], codes[:, 1] = 0, 15
    x = 0.25 * codes - 1.5
    assert torch.equal(dequantize_affine(quantize_affine(x, 4, 32), (6, 32)), x)
    assert torch.equal(dequantize_affine(quantize_affine(torch.full((32,), 7.0)), (32,)), torch.full((32,), 7.0))


def test_what_cannot_be_is_refused():
    x = torch.zeros(4, 8)
    for bits, block in ((0, 8), (9, 8), (4, 5), (4, 0)):
        with pytest.raises(ValueError):
            quantize_affine(x, bits, block)
    with pytest.raises(ValueError, match="NaN"):
        quantize_affine(x + torch.inf, 4, 8)
    with pytest.raises(ValueError, match="do not fill"):
        dequantize_affine(quantize_affine(x, 4, 8), (5, 5))
