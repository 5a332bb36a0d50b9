import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.surgery.allocate import allocate, energy_curves


def brute_force(cost, weight, budget):
    best = np.inf
    for choice in itertools.product(range(cost.shape[1]), repeat=len(cost)):
        rows = range(len(cost))
        if sum(weight[r, c] for r, c in zip(rows, choice)) <= budget:
            best = min(best, sum(cost[r, c] for r, c in zip(rows, choice)))
    return best


def tables(seed, matrices, configurations):
    rng = np.random.default_rng(seed)
    return rng.random((matrices, configurations)), rng.integers(0, 20, (matrices, configurations))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 4), st.floats(0, 1))
def test_exact_solvers_equal_brute_force(seed, matrices, configurations, share):
    cost, weight = tables(seed, matrices, configurations)
    least, most = weight.min(1).sum(), weight.max(1).sum()
    budget = float(least + share * (most - least))
    best = brute_force(cost, weight, budget)
    for solver in ("milp", "dp"):
        found = allocate(cost, weight, budget, solver)
        assert found.cost == pytest.approx(best, abs=1e-9)
        assert found.used <= budget + 1e-9
    for solver in ("greedy", "threshold"):
        found = allocate(cost, weight, budget, solver)
        assert found.used <= budget + 1e-9
        assert best - 1e-9 <= found.cost
    assert found.bound <= best + 1e-9


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_greedy_is_exact_on_convex_curves_of_unit_steps(seed, matrices):
    rng = np.random.default_rng(seed)
    spectra = [torch.from_numpy(np.sort(rng.random(rng.integers(1, 12)))[::-1].copy()) for _ in range(matrices)]
    cost, weight, allowed = energy_curves(spectra)
    budget = int(rng.integers(0, int(weight.max(1).sum()) + 1))
    greedy = allocate(cost, weight, budget, "greedy", allowed=allowed)
    milp = allocate(cost, weight, budget, "milp", allowed=allowed)
    assert greedy.cost == pytest.approx(milp.cost, rel=1e-9, abs=1e-12)
    assert greedy.gap < 1e-9  # the relaxation is integral here
    # the pooled largest singular values are what is kept
    pooled = torch.cat(spectra).sort(descending=True).values
    assert greedy.cost == pytest.approx(float(pooled[budget:].square().sum()), abs=1e-9)


def test_threshold_takes_equal_steps_together_or_not_at_all():
    cost = np.array([[3.0, 1.0, 0.5], [3.0, 1.0, 0.0]])
    weight = np.array([[0, 1, 2], [0, 1, 2]])
    assert allocate(cost, weight, 1, "threshold").choice == (0, 0)
    assert allocate(cost, weight, 1, "greedy").used == 1
    assert allocate(cost, weight, 3, "threshold").choice == (1, 2)
    assert allocate(cost, weight, 3, "threshold").price == pytest.approx(0.5)


def test_a_loose_budget_takes_the_cheapest_and_has_no_price():
    cost, weight = tables(3, 5, 4)
    found = allocate(torch.from_numpy(cost), torch.from_numpy(weight), 1000)
    assert found.choice == tuple(cost.argmin(1))
    assert found.price == 0
    assert found.gap < 1e-9


def test_the_gap_bounds_the_distance_from_the_optimum():
    cost, weight = tables(5, 6, 4)
    greedy, exact = (allocate(cost, weight, 40, s) for s in ("greedy", "milp"))
    assert 0 <= greedy.cost - exact.cost <= greedy.gap + 1e-12


def test_masked_configurations_are_never_chosen():
    cost, weight = tables(1, 4, 3)
    cost[:, 0] = -10
    allowed = np.ones(cost.shape, dtype=bool)
    allowed[:, 0] = False
    cost[0, 0] = np.nan
    for solver in ("milp", "greedy", "threshold", "dp"):
        assert 0 not in allocate(cost, weight, 80, solver, allowed=allowed).choice


def test_a_table_of_36_by_432_is_solved_in_seconds():
    rng = np.random.default_rng(0)
    cost = np.sort(rng.lognormal(0, 2, (36, 432)), axis=1)[:, ::-1] * rng.lognormal(0, 1, (36, 1))
    weight = np.sort(rng.integers(2_000_000, 9_000_000, (36, 432)), axis=1) * rng.integers(1, 5, (36, 1))
    budget = float(weight.min(1).sum() + 0.4 * (weight.max(1) - weight.min(1)).sum())
    start = time.perf_counter()
    found = allocate(cost, weight, budget)
    assert time.perf_counter() - start < 20
    assert found.used <= budget
    assert found.gap <= 1e-3 * found.bound
    assert found.cost <= allocate(cost, weight, budget, "greedy").cost


def test_what_cannot_be_is_refused():
    cost, weight = tables(0, 3, 3)
    least = weight.min(1).sum()
    with pytest.raises(ValueError, match=f"smallest that can is {least}"):
        allocate(cost, weight, float(least) - 1)
    with pytest.raises(ValueError, match="solver"):
        allocate(cost, weight, 30, "annealing")
    with pytest.raises(ValueError, match="NaN"):
        allocate(np.where(cost == cost[1, 1], np.nan, cost), weight, 40)
    with pytest.raises(ValueError, match="at least 0"):
        allocate(cost, weight - 30, 40)
    with pytest.raises(ValueError, match="no allowed"):
        allocate(cost, weight, 40, allowed=np.zeros((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="common unit"):
        allocate(cost, weight * np.pi + 0.1 * cost, 60.0, "dp")
    with pytest.raises(ValueError, match="descending"):
        energy_curves([torch.tensor([1.0, 2.0])])
