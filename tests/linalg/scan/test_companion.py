import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.linalg.scan.companion import (
    companion_kernel,
    companion_matrix,
    companion_step,
    krylov,
    l1_normalized,
    reciprocal_series,
)


def vectors(states, count=3, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, states, generator=generator, dtype=torch.float64) for _ in range(count)]


@given(st.integers(1, 20), st.integers(1, 40))
def test_the_kernel_is_that_of_dense_powers(states, length):
    a, b, c = vectors(states, seed=states)
    a = l1_normalized(a)
    dense = torch.einsum("hls,hs->hl", krylov(companion_matrix(a), b, length), c)
    assert torch.allclose(companion_kernel(a, b, c, length), dense, atol=1e-12)


@given(st.integers(1, 6), st.integers(1, 30))
def test_a_reciprocal_times_its_polynomial_is_one(terms, length):
    generator = torch.Generator().manual_seed(terms)
    p = torch.randn(terms, generator=generator, dtype=torch.float64) / terms
    p[0] = 1
    g = reciprocal_series(p, length)
    product = torch.zeros(length, dtype=torch.float64)
    for i in range(min(terms, length)):
        product[i:] += p[i] * g[: length - i]
    expected = torch.zeros(length, dtype=torch.float64)
    expected[0] = 1
    assert torch.allclose(product, expected, atol=1e-9)


def test_gradients():
    a, b, c = (v.requires_grad_() for v in vectors(4))
    assert torch.autograd.gradcheck(lambda a, b, c: companion_kernel(l1_normalized(a), b, c, 7), (a, b, c))
    matrix = companion_matrix(l1_normalized(a.detach())).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: krylov(m, v, 5), (matrix, b))


def test_normalized_columns_give_stable_matrices():
    a = l1_normalized(5 * vectors(12, 1, 20)[0])
    assert float(torch.linalg.eigvals(companion_matrix(a)).abs().max()) <= 1 + 1e-9
    assert torch.equal(l1_normalized(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_a_step_is_a_product_with_the_matrix():
    a, b = vectors(5, 2)
    state = torch.randn(3, 2, 5, dtype=torch.float64)
    u = torch.randn(3, 2, dtype=torch.float64)
    expected = torch.einsum("hij,bhj->bhi", companion_matrix(a), state) + b * u[..., None]
    assert torch.allclose(companion_step(state, u, a, b), expected)


def test_bad_input_is_refused():
    a, b, c = vectors(3)
    with pytest.raises(ValueError, match="at least 1"):
        companion_kernel(a, b, c, 0)
    with pytest.raises(ValueError, match="NaN"):
        companion_kernel(a * torch.nan, b, c, 4)
    with pytest.raises(ValueError, match="at least 1"):
        krylov(companion_matrix(a), b, 0)
