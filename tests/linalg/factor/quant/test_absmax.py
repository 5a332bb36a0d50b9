import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant import absmax


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 20))
def test_rounding_is_within_half_a_step(seed, rows, columns):
    x = normal(rows, columns, seed=seed)
    codes, scales = absmax.quantize_rows(x)
    assert (absmax.dequantize_rows(codes, scales) - x).abs().le(scales[:, None] / 254 * 1.0001).all()
    assert torch.equal(scales, x.abs().amax(1))
    assert codes.abs().amax(1).eq(127).all()


@pytest.mark.parametrize("how", ["integer", "float", "auto"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3000, 7), (3, 1025, 2)])
def test_the_product_is_exact(how, shape):
    rows, inner, outputs = shape
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, (n, inner), dtype=np.int8) for n in (rows, outputs))
    product = absmax.int8_matmul(torch.from_numpy(a), torch.from_numpy(b), how)
    assert np.array_equal(product.numpy(), a.astype(np.int64) @ b.astype(np.int64).T)
    full = torch.full((2, inner), -128, dtype=torch.int8)
    assert absmax.int8_matmul(full, full, how).eq(128**2 * inner).all()


def test_rows_of_zeros_and_tiny_numbers_stay_finite():
    x = torch.tensor([[0.0, 0.0], [1e-42, -1e-42], [1e30, -3e38]])
    codes, scales = absmax.quantize_rows(x)
    assert torch.isfinite(absmax.dequantize_rows(codes, scales)).all()
    assert codes[0].eq(0).all()
    assert codes[2].tolist() == [0, -127]


def test_outliers_are_multiplied_as_floats():
    x, w = normal(16, 64), normal(8, 64, seed=1)
    x[:, [3, 40]] *= 50
    codes, scales = absmax.quantize_rows(w)
    exact = x @ w.T
    found = {t: (absmax.mixed_matmul(x, codes, scales, t, w) - exact).norm() for t in (6.0, float("inf"))}
    assert found[6.0] < found[float("inf")] / 5
    dequantized = absmax.mixed_matmul(x, codes, scales, 6.0) - exact
    assert found[6.0] < dequantized.norm() < found[float("inf")] / 2
    assert absmax.outlier_features(x, 6.0).nonzero().flatten().tolist() == [3, 40]


def test_threshold_zero_is_the_float_product_and_infinity_the_pure_one():
    x, w = normal(6, 32), normal(5, 32, seed=1)
    codes, scales = absmax.quantize_rows(w)
    assert torch.allclose(absmax.mixed_matmul(x, codes, scales, 0, w), x @ w.T, atol=1e-6)
    assert torch.allclose(absmax.mixed_matmul(x, codes, scales, 0), x @ absmax.dequantize_rows(codes, scales).T)
    rows, sizes = absmax.quantize_rows(x)
    pure = (rows.long() @ codes.long().T) * sizes[:, None] * scales / 127**2
    assert torch.allclose(absmax.mixed_matmul(x, codes, scales, float("inf")), pure, rtol=1e-6)


def test_no_rows_is_no_output():
    codes, scales = absmax.quantize_rows(normal(4, 3))
    assert absmax.mixed_matmul(torch.zeros(0, 3), codes, scales).shape == (0, 4)


def test_what_cannot_be_is_refused():
    codes, scales = absmax.quantize_rows(normal(4, 3))
    with pytest.raises(ValueError, match="row 1"):
        absmax.quantize_rows(torch.tensor([[0.0], [torch.nan]]))
    for bad in (torch.nan, torch.inf):
        for threshold in (0.0, 6.0, float("inf")):
            with pytest.raises(ValueError, match="NaN or infinity"):
                absmax.mixed_matmul(torch.full((2, 3), bad), codes, scales, threshold)
    for threshold in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            absmax.mixed_matmul(normal(2, 3), codes, scales, threshold)
    with pytest.raises(ValueError, match="features"):
        absmax.mixed_matmul(normal(2, 5), codes, scales)
    with pytest.raises(ValueError, match="inner"):
        absmax.int8_matmul(codes, codes[:, :2])
    with pytest.raises(ValueError, match="overflow"):
        absmax.int8_matmul(*(torch.zeros(1, 2**17, dtype=torch.int8),) * 2)
    with pytest.raises(ValueError, match="how"):
        absmax.int8_matmul(codes, codes, "both")
