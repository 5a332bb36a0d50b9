import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor import lowrank


def case(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    row = torch.rand(rows, generator=generator, dtype=torch.float64) + 0.05
    column = torch.rand(columns, generator=generator, dtype=torch.float64) + 0.05
    return a, row, column


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(2, 9))
def test_the_error_of_the_truncated_svd_is_the_tail_of_the_spectrum(seed, rows, columns):
    a, _, _ = case(seed, rows, columns)
    rank = min(rows, columns) // 2 or 1
    factors = lowrank.truncated_svd(a, rank)
    tail = torch.linalg.svdvals(a)[rank:].square().sum().sqrt()
    assert torch.allclose(lowrank.weighted_error(a, factors.product()), tail, atol=1e-12)
    assert factors.left.shape == (rows, rank)
    assert factors.right.shape == (rank, columns)


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_the_weighted_error_is_the_tail_of_the_weighted_spectrum(seed):
    a, row, column = case(seed, 7, 5)
    factors = lowrank.weighted_svd(a, row, column, 2)
    tail = torch.linalg.svdvals(row[:, None] * a * column)[2:].square().sum().sqrt()
    assert torch.allclose(lowrank.weighted_error(a, factors.product(), row, column), tail, atol=1e-12)
    plain = lowrank.truncated_svd(a, 2).product()
    assert lowrank.weighted_error(a, plain, row, column) >= tail - 1e-12
    assert lowrank.weighted_error(a, plain) <= lowrank.weighted_error(a, factors.product()) + 1e-12


def test_equal_weights_give_the_plain_svd():
    a, _, _ = case(0, 8, 6)
    weighted = lowrank.weighted_svd(a, torch.full((8,), 3.0).double(), torch.full((6,), 0.2).double(), 3)
    assert torch.allclose(weighted.product(), lowrank.truncated_svd(a, 3).product(), atol=1e-12)
    assert torch.allclose(lowrank.weighted_svd(a, None, None, 3).product(), weighted.product(), atol=1e-12)


def test_random_projections_come_close_on_a_decaying_spectrum():
    generator = torch.Generator().manual_seed(1)
    u = torch.linalg.qr(torch.randn(60, 40, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64)).Q
    s = torch.logspace(0, -3, 40, dtype=torch.float64)
    a = u * s @ v.T
    _, values, _ = lowrank.randomized_svd(a, 8, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(values, s[:8], rtol=1e-6)
    ones = torch.ones(60, dtype=torch.float64)
    error = lowrank.weighted_error(a, lowrank.weighted_svd(a, ones, None, 8, randomized=True).product())
    assert error <= 1.001 * s[8:].square().sum().sqrt()
    again = lowrank.randomized_svd(a, 8, generator=torch.Generator().manual_seed(3))[1]
    assert torch.equal(values, again)


def test_half_precision_is_computed_in_float32():
    a = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).half()
    factors = lowrank.truncated_svd(a, 4)
    assert factors.left.dtype == torch.float16
    assert torch.allclose(factors.product().float(), a.float(), atol=2e-2)


def test_break_even():
    for rows, columns in ((384, 384), (1536, 384), (3, 1)):
        rank = lowrank.break_even_rank(rows, columns)
        assert rank * (rows + columns) < rows * columns <= (rank + 1) * (rows + columns)
    with pytest.raises(ValueError, match="no factors"):
        lowrank.break_even_rank(0, 3)


def test_what_cannot_be_is_refused():
    a, row, column = case(0, 4, 3)
    for rank in (0, 4):
        with pytest.raises(ValueError, match="rank="):
            lowrank.truncated_svd(a, rank)
    with pytest.raises(ValueError, match="NaN"):
        lowrank.truncated_svd(a * torch.nan, 1)
    with pytest.raises(ValueError, match="floor"):
        lowrank.weighted_svd(a, row * 0, None, 1)
    with pytest.raises(ValueError, match="oversample"):
        lowrank.randomized_svd(a, 1, oversample=-1)
