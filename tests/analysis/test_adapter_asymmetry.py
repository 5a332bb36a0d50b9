import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis import adapter_asymmetry as asymmetry


def problem(seed=0, out=6, width=9, rank=2):
    g = torch.Generator().manual_seed(seed)
    change = torch.randn(out, width, generator=g, dtype=torch.float64)
    root = torch.randn(width, width, generator=g, dtype=torch.float64)
    Q = torch.randn(rank, width, generator=g, dtype=torch.float64)
    U = torch.randn(out, rank, generator=g, dtype=torch.float64)
    return change, root @ root.T, root, Q, U


def excess(change, covariance, update):
    gap = change - update
    return torch.trace(gap @ covariance @ gap.T)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 5))
def test_the_closed_forms_are_the_least_squares_optima(seed, rank):
    change, covariance, root, Q, U = problem(seed, rank=rank)
    # ‖(D − BQ) root‖² over B, and ‖(D − UA) root‖² over A
    B = torch.linalg.lstsq((Q @ root).T, (change @ root).T).solution.T
    torch.testing.assert_close(asymmetry.excess_freeze_A(change, covariance, Q), excess(change, covariance, B @ Q))
    torch.testing.assert_close(asymmetry.best_B(change, covariance, Q), B, rtol=1e-6, atol=1e-8)
    A = torch.linalg.lstsq(U, change).solution
    torch.testing.assert_close(asymmetry.excess_freeze_B(change, covariance, U), excess(change, covariance, U @ A))
    torch.testing.assert_close(asymmetry.best_A(change, U), A)


def test_only_the_span_of_the_frozen_factor_matters():
    change, covariance, _, Q, U = problem()
    mix = torch.tensor([[2.0, 1.0], [0.5, -3.0]], dtype=torch.float64)
    torch.testing.assert_close(
        asymmetry.excess_freeze_A(change, covariance, Q), asymmetry.excess_freeze_A(change, covariance, mix @ Q)
    )
    torch.testing.assert_close(
        asymmetry.excess_freeze_B(change, covariance, U), asymmetry.excess_freeze_B(change, covariance, U @ mix)
    )
    full = torch.eye(9, dtype=torch.float64)
    assert asymmetry.excess_freeze_A(change, covariance, full).abs() < 1e-8


def test_the_bound_counts_numbers():
    bound = asymmetry.generalization_bound([(10, 30), (10, 50)], rank=4, samples=100, bits=8, sigma=0.5)
    assert bound.only_B == pytest.approx(math.sqrt(2 * 0.25 * math.log(2) / 100 * 8 * 4 * 20))
    assert bound.both**2 == pytest.approx(bound.only_A**2 + bound.only_B**2)


def test_similarity_of_row_spaces():
    a = torch.eye(6, dtype=torch.float64)
    assert asymmetry.subspace_similarity(a[:2], 3 * a[:2].flip(0)) == pytest.approx(1)
    assert asymmetry.subspace_similarity(a[:2], a[2:4]) == pytest.approx(0)
    assert asymmetry.subspace_similarity(a[:2], a[1:3]) == pytest.approx(0.5)


def test_bad_input():
    change, covariance, _, Q, U = problem()
    with pytest.raises(ValueError, match="needs a covariance"):
        asymmetry.excess_freeze_A(change, torch.eye(4, dtype=torch.float64), Q[:, :4])
    with pytest.raises(ValueError, match="width 6"):
        asymmetry.excess_freeze_A(change, covariance, U.T)
    with pytest.raises(ValueError, match="rank 10 is above 9"):
        asymmetry.excess_freeze_A(change, covariance, torch.ones(10, 9, dtype=torch.float64))
    with pytest.raises(ValueError, match="rank 7 is above 6"):
        asymmetry.excess_freeze_B(change, covariance, torch.ones(6, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match="singular"):
        asymmetry.excess_freeze_A(change, torch.zeros_like(covariance), Q)
    with pytest.raises(ValueError, match="singular"):
        asymmetry.excess_freeze_B(change, covariance, torch.ones(6, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="empty"):
        asymmetry.generalization_bound([], 1, 1)
    with pytest.raises(ValueError, match="samples=0"):
        asymmetry.generalization_bound([(1, 1)], 1, 0)
    with pytest.raises(ValueError, match="widths differ"):
        asymmetry.subspace_similarity(Q, U.T)
