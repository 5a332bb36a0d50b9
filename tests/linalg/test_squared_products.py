"""Sums of squared products against the plain formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.squared_products import add_squared_products_


def plain(total, left, right):
    return total.double() + (left.double().mT @ right.double()).square().sum(0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 90), st.integers(1, 90), st.integers(0, 99))
def test_any_sizes_agree_with_the_formula(samples, positions, rows, columns, seed):
    draw = torch.Generator().manual_seed(seed)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        left, right, total = (torch.randn(s, generator=draw, dtype=dtype) for s in
                              ((samples, positions, rows), (samples, positions, columns), (rows, columns)))  # fmt: skip
        exact = plain(total, left, right)
        found = add_squared_products_(total, left, right)
        assert found is total
        assert float((found - exact).abs().max()) <= tolerance * float(exact.abs().max())


@pytest.mark.parametrize(
    ("positions", "rows", "columns"), [(32, 100, 70), (48, 64, 65), (49, 200, 170), (3, 200, 170), (64, 9, 8)]
)
def test_each_way_of_computing_agrees(positions, rows, columns):
    left, right = torch.randn(4, positions, rows), torch.randn(4, positions, columns)
    exact = plain(torch.zeros(rows, columns), left, right)
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = add_squared_products_(torch.zeros(rows, columns), left, right, chunk=3)
        finally:
            torch.set_num_threads(before)
        assert float((found - exact).abs().max()) <= 2e-6 * float(exact.max())


def test_views_and_a_transposed_total_are_read_right():
    base = torch.randn(8, 5, 240)
    left, right = base[::2, :, :100], base[::2, :, 140:]
    total = torch.zeros(100, 100).T
    assert torch.allclose(add_squared_products_(total, left, right).double(), plain(torch.zeros(100, 100), left, right),
                          rtol=1e-5, atol=1e-5)  # fmt: skip


def test_nan_comes_out_where_it_belongs():
    left, right = torch.ones(2, 3, 80), torch.ones(2, 3, 80)
    left[0, 1, 7] = torch.nan
    found = add_squared_products_(torch.zeros(80, 80), left, right)
    assert bool(found[7].isnan().all())
    assert int(found.isnan().sum()) == 80


def test_no_sample_adds_nothing_and_wrong_sizes_are_refused():
    total = torch.ones(80, 80)
    assert torch.equal(add_squared_products_(total, torch.ones(0, 3, 80), torch.ones(0, 3, 80)), torch.ones(80, 80))
    with pytest.raises((ValueError, TypeError), match=r"do not fit|type"):
        add_squared_products_(total, torch.ones(1, 3, 80), torch.ones(1, 2, 80))
