"""Hadamard matrices of Paley's sizes and their transform."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.signal import hadamard, paley


@pytest.mark.parametrize("order", [4, 8, 12, 20, 24, 32, 44, 48, 60])
def test_rows_are_orthogonal(order):
    matrix = paley.paley(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order))


@pytest.mark.parametrize("order", [1, 2, 10, 16, 28, 36, 40])
def test_other_orders_are_refused(order):
    with pytest.raises(ValueError, match="Paley"):
        paley.paley(order)


@pytest.mark.parametrize(
    ("size", "parts"),
    [(1, (1, 1)), (12, (12, 1)), (40, (20, 2)), (1536, (12, 128)), (5120, (20, 256)), (224, (224, 1))],
)
def test_sizes_split(size, parts):
    assert paley.split_size(size) == parts


@pytest.mark.parametrize("size", [0, 3, 28, 30, 100])
def test_unsupported_sizes_name_their_neighbours(size):
    with pytest.raises(ValueError, match="next sizes are"):
        paley.split_size(size)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([1, 4, 12, 20, 24, 40, 96]), st.booleans(), st.integers(0, 99))
def test_transform_is_the_matrix_and_its_transpose_the_inverse(size, normalized, seed):
    x = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    matrix = paley.hadamard_of_size(size, torch.float64)
    factor = size**-0.5 if normalized else 1.0
    torch.testing.assert_close(paley.hadamard_transform(x, normalized), x @ matrix.T * factor)
    torch.testing.assert_close(paley.hadamard_transform(x, normalized, transpose=True), x @ matrix * factor)
    back = paley.hadamard_transform(paley.hadamard_transform(x, normalized), normalized, transpose=True)
    torch.testing.assert_close(back, x if normalized else size * x)


def test_powers_of_two_are_sylvesters():
    assert torch.equal(paley.hadamard_of_size(16), hadamard.hadamard_matrix(16))


def test_gradient():
    x = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(paley.hadamard_transform, (x,))
