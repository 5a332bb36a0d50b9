"""Floats times packed signs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant.binary import pack_signs
from gramian.linalg.factor.quant.bit_products import float_sign_matmul


@settings(max_examples=12)
@given(rows=st.integers(0, 20), inner=st.integers(1, 140), outputs=st.integers(1, 9), wide=st.booleans())
def test_it_is_the_dense_product(rows, inner, outputs, wide):
    generator = torch.Generator().manual_seed(rows + 31 * inner)
    dtype = torch.float64 if wide else torch.float32
    x = torch.randn(rows, inner, generator=generator, dtype=dtype)
    weight = torch.randn(outputs, inner, generator=generator, dtype=dtype)
    exact = x @ torch.where(weight >= 0, 1.0, -1.0).to(dtype).T
    bound = 1e-12 if wide else 1e-5
    found = float_sign_matmul(x, pack_signs(weight))
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact, atol=bound * inner**0.5 * 4, rtol=bound)


def test_half_precision_views_and_sizes():
    x = torch.arange(6.0).view(2, 3).T.bfloat16()
    signs = pack_signs(torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(float_sign_matmul(x, signs), (x[:, :1] - x[:, 1:]))
    with pytest.raises(ValueError, match="65 entries take 2 words"):
        float_sign_matmul(torch.ones(1, 65), signs)
