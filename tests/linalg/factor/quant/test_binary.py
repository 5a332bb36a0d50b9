import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant import binary


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 70), st.integers(1, 200), st.integers(1, 5))
def test_the_product_is_exact_and_zeros_count_as_nothing(seed, rows, inner, outputs):
    rng = np.random.default_rng(seed)
    a = rng.integers(-1, 2, (rows, inner))
    b = 2 * rng.integers(0, 2, (outputs, inner)) - 1
    words = binary.pack_signs(torch.from_numpy(b).float())
    for how in ("bits", "float", "auto"):
        found = binary.sign_matmul(torch.from_numpy(a).float(), words, how)
        assert np.array_equal(found.numpy(), a @ b.T)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 200))
def test_packing_comes_back_and_takes_a_bit_each(seed, rows, inner):
    x = torch.randn(rows, inner, generator=torch.Generator().manual_seed(seed))
    words = binary.pack_signs(x)
    assert words.nbytes == rows * 8 * -(-inner // 64)
    assert torch.equal(binary.unpack_signs(words, inner), torch.where(x >= 0, 1.0, -1.0))


def test_only_signs_of_activations_matter():
    a = torch.tensor([[0.5, -3.0, 1e-30, -0.0]])
    words = binary.pack_signs(torch.tensor([[1.0, 1.0, -1.0, 1.0]]))
    assert binary.sign_matmul(a, words).tolist() == [[-1]]


@pytest.mark.parametrize("angle", [0.01, 0.3, 1.0, 20.0])
def test_the_error_is_the_integral(angle):
    w = np.linspace(0, 60, 3_000_001)
    density, s = np.exp(-w), np.sin(angle * w)
    integral = np.trapezoid(density * (np.where(s >= 0, 1, -1) - s) ** 2, w)
    assert binary.periodic_error(angle, 1.0) == pytest.approx(integral, abs=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: binary.sign_matmul(torch.ones(1, 3), torch.zeros(1, 2, dtype=torch.long)),
        lambda: binary.sign_matmul(torch.ones(1, 3), torch.zeros(1, 1, dtype=torch.long), "xnor"),
        lambda: binary.sign_matmul(torch.full((1, 3), torch.nan), torch.zeros(1, 1, dtype=torch.long)),
        lambda: binary.unpack_signs(torch.zeros(1, 1, dtype=torch.long), 65),
        lambda: binary.periodic_error(0, 1),
        lambda: binary.periodic_error(20, -1.0),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"words|how|NaN|hold up|positive"):
        call()
