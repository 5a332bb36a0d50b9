r"""One configuration for each matrix of a network, under one budget.

A rank, a bit width or a sparsity has to be chosen for every matrix, and the sum of what the choices weigh must
stay within a budget: the multiple-choice knapsack

\[ \min_c \sum_l \mathrm{cost}_{l, c_l} \quad \text{with} \quad \sum_l \mathrm{weight}_{l, c_l} \le B. \]

Its linear relaxation has a closed solution (the steps along each row's lower convex hull, taken in order of what
a unit of weight saves), which gives every solver's answer a bound to be measured against.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Real
from torch import Tensor

__all__ = ["Allocation", "allocate", "energy_curves"]

Table = Real[Tensor, "matrices configurations"] | Real[np.ndarray, "matrices configurations"]
Mask = Bool[Tensor, "matrices configurations"] | Bool[np.ndarray, "matrices configurations"]

SOLVERS = ("milp", "greedy", "threshold", "dp")
_CELLS = 400_000_000
"""The largest table of dynamic programming: steps of the budget × configurations."""


@dataclass(frozen=True)
class Allocation:
    """What was chosen.

    Attributes:
        choice: the index of each matrix's configuration.
        cost, used: the sums of the chosen costs and weights.
        budget: what `used` had to stay within.
        bound: the cost of the linear relaxation, which no choice within the budget can be below.
        price: what one more unit of budget would save there; 0 where the budget does not bind.
    """

    choice: tuple[int, ...]
    cost: float
    used: float
    budget: float
    bound: float
    price: float

    @property
    def gap(self) -> float:
        """How far the cost can be from the least possible: cost − bound."""
        return max(0.0, self.cost - self.bound)


@dataclass(frozen=True)
class _Step:
    """One step along a row's lower hull: from one configuration to the next heavier one that pays."""

    row: int
    column: int
    weight: float
    saves: float

    @property
    def rate(self) -> float:
        return self.saves / self.weight


def allocate(
    cost: Table,
    weight: Table,
    budget: float | int,
    solver: str = "milp",
    *,
    allowed: Mask | None = None,
    time_limit: float | int = 20.0,
) -> Allocation:
    r"""Choose one configuration for each matrix so that the costs' sum is least and the weights fit a budget.

    - ``"milp"``: exact (scipy's HiGHS), after configurations that cannot be part of an optimum are struck out.
    - ``"greedy"``: steps along the rows' hulls, the one that saves most a unit of weight first, past those that do
      not fit; then what still fits besides. Exact where all curves are convex with steps of one weight.
    - ``"threshold"``: one price for all: every step that saves at least the price is taken, equal ones together, and
      the price is the lowest that fits. What is left over of the budget stays.
    - ``"dp"``: exact dynamic programming over the budget; weights must be multiples of a common unit.

    Args:
        cost: what each configuration costs: an error, a loss of quality. A gain is a cost below zero.
        weight: what it weighs: bits, parameters, rank. At least 0.
        allowed: False marks configurations that do not exist; by default all do. Rows of unequal length are
            padded and masked this way.
        time_limit: seconds after which ``"milp"`` returns the best choice found; `Allocation.gap` tells how good.

    Raises:
        ValueError: shapes that differ, NaN, infinity or a negative weight in an allowed place, a row in which nothing
            is allowed, an unknown solver, a budget below the least that any choice weighs (the message says
            which that is), or for ``"dp"`` weights without a common unit.

    Source: Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), chapter 11; used for mixed quantization by Guo
    et al., LQ-LoRA (2023), section 3.2.

    >>> errors, bits = np.array([[9.0, 4, 1], [5.0, 1, 0]]), np.array([[2, 3, 4], [2, 3, 4]])
    >>> allocate(errors, bits, 6).choice
    (1, 1)
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not one of {', '.join(SOLVERS)}")
    costs, weights, open_ = _checked(cost, weight, allowed)
    least = float(np.where(open_, weights, np.inf).min(axis=1).sum())
    slack = 1e-12 * max(abs(float(budget)), least)
    if not math.isfinite(budget) or budget < least - slack:
        raise ValueError(f"budget={budget} cannot be met: the smallest that can is {least:.10g}")
    limit = float(budget) + slack
    start, steps = _hulls(costs, weights, open_)
    bound, price = _relaxation(costs, weights, start, steps, limit)
    if solver == "threshold":
        choice = _threshold(weights, start, steps, limit)
    else:
        # where a long step does not fit, going part of its way is better at times, and at times worse
        both = [_greedy(costs, weights, open_, start, steps, limit, part) for part in (False, True)]
        choice = min(both, key=lambda c: _total(costs, c))
        if solver != "greedy":
            core = _core(costs, weights, open_, choice, bound, price)
            exact = _milp if solver == "milp" else _dp
            found = exact(costs, weights, core, limit, float(time_limit))
            if found is not None and _total(costs, found) < _total(costs, choice):
                choice = found
    used = _total(weights, choice)
    return Allocation(tuple(int(c) for c in choice), _total(costs, choice), used, float(budget), bound, price)


def energy_curves(
    spectra: Sequence[Float[Tensor, " _"]], parameters: Sequence[float | int] | None = None
) -> tuple[
    Float[np.ndarray, "matrices ranks"], Float[np.ndarray, "matrices ranks"], Bool[np.ndarray, "matrices ranks"]
]:
    r"""Tables for `allocate` whose configurations are ranks: \(\mathrm{cost}_{l,r} = \sum_{i > r} \sigma_{l,i}^2\).

    Column r stands for rank r, from 0; the cost is the squared error of the best approximation of that rank.

    Args:
        spectra: the singular values of each matrix, in descending order.
        parameters: what one rank of each matrix weighs, such as its rows + columns; by default 1.

    Returns:
        cost, weight and the mask of the ranks that exist.

    Raises:
        ValueError: no spectra, values that ascend or are negative, or as many parameters as there are not spectra.

    >>> import torch
    >>> cost, weight, allowed = energy_curves([torch.tensor([2.0, 1.0])], [10])
    >>> cost.tolist(), weight.tolist(), allowed.tolist()
    ([[5.0, 1.0, 0.0]], [[0.0, 10.0, 20.0]], [[True, True, True]])
    """
    per_rank = [1.0] * len(spectra) if parameters is None else [float(p) for p in parameters]
    if not spectra or len(per_rank) != len(spectra):
        raise ValueError(f"{len(spectra)} spectra and {len(per_rank)} weights of one rank: one each is needed")
    width = max(len(s) for s in spectra) + 1
    cost, weight = np.zeros((len(spectra), width)), np.zeros((len(spectra), width))
    allowed = np.zeros((len(spectra), width), dtype=bool)
    for row, (values, unit) in enumerate(zip(spectra, per_rank, strict=True)):
        s = values.detach().double().cpu().numpy()
        if bool((s < 0).any()) or bool((np.diff(s) > 0).any()):
            raise ValueError(f"spectrum {row}: singular values are at least 0 and in descending order")
        cost[row, : len(s)] = (s**2)[::-1].cumsum()[::-1]
        weight[row, : len(s) + 1] = unit * np.arange(len(s) + 1)
        allowed[row, : len(s) + 1] = True
    return cost, weight, allowed


def _checked(cost: Table, weight: Table, allowed: Mask | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    costs, weights = _array(cost).astype(np.float64), _array(weight).astype(np.float64)
    open_ = np.ones(costs.shape, dtype=bool) if allowed is None else _array(allowed).astype(bool)
    if costs.shape != weights.shape or costs.shape != open_.shape or costs.ndim != 2 or not costs.size:
        raise ValueError(
            f"cost, weight and allowed are tables (matrices, configurations) of one shape, "
            f"got {costs.shape}, {weights.shape} and {open_.shape}"
        )
    if not open_.any(axis=1).all():
        raise ValueError(f"matrix {int(np.argmin(open_.any(axis=1)))} has no allowed configuration")
    if not (np.isfinite(costs[open_]).all() and np.isfinite(weights[open_]).all()):
        raise ValueError("cost or weight holds NaN or infinity; mark what does not exist with allowed=")
    if (weights[open_] < 0).any():
        raise ValueError(f"weights are at least 0, got {weights[open_].min():g}")
    return costs, weights, open_


def _array(table: Tensor | np.ndarray) -> np.ndarray:
    return table.detach().cpu().numpy() if isinstance(table, Tensor) else np.asarray(table)


def _total(table: np.ndarray, choice: np.ndarray) -> float:
    return float(table[np.arange(len(choice)), choice].sum())


def _hulls(costs: np.ndarray, weights: np.ndarray, open_: np.ndarray) -> tuple[np.ndarray, list[list[_Step]]]:
    """Each row's lightest configuration, and the steps of its lower convex hull from there, best rate first."""
    start, steps = np.zeros(len(costs), dtype=np.int64), []
    for row in range(len(costs)):
        columns = np.flatnonzero(open_[row])
        order = columns[np.lexsort((costs[row, columns], weights[row, columns]))]
        hull: list[int] = []
        for column in order.tolist():
            if hull and costs[row, column] >= costs[row, hull[-1]]:
                continue
            while len(hull) >= 2 and _rate(costs[row], weights[row], hull[-1], column) >= _rate(
                costs[row], weights[row], hull[-2], hull[-1]
            ):
                hull.pop()
            hull.append(column)
        start[row] = hull[0]
        steps.append(
            [
                _Step(row, b, weights[row, b] - weights[row, a], costs[row, a] - costs[row, b])
                for a, b in itertools.pairwise(hull)
            ]
        )
    return start, steps


def _rate(costs: np.ndarray, weights: np.ndarray, a: int, b: int) -> float:
    return float((costs[a] - costs[b]) / (weights[b] - weights[a]))


def _relaxation(
    costs: np.ndarray, weights: np.ndarray, start: np.ndarray, steps: list[list[_Step]], limit: float
) -> tuple[float, float]:
    """The cost of the linear relaxation, and its price of a unit of budget."""
    bound, left = _total(costs, start), limit - _total(weights, start)
    for step in sorted((s for row in steps for s in row), key=lambda s: -s.rate):
        if step.weight > left:
            return bound - step.saves * max(0.0, left) / step.weight, step.rate
        bound, left = bound - step.saves, left - step.weight
    return bound, 0.0


def _threshold(weights: np.ndarray, start: np.ndarray, steps: list[list[_Step]], limit: float) -> np.ndarray:
    """The steps of at least one common rate, the lowest whose steps all fit."""
    ordered = sorted((s for row in steps for s in row), key=lambda s: -s.rate)
    choice, left, index = start.copy(), limit - _total(weights, start), 0
    while index < len(ordered):
        end = index
        while end < len(ordered) and math.isclose(ordered[end].rate, ordered[index].rate, rel_tol=1e-12):
            end += 1
        left -= sum(s.weight for s in ordered[index:end])
        if left < 0:
            break
        for step in ordered[index:end]:
            choice[step.row] = step.column
        index = end
    return choice


def _greedy(
    costs: np.ndarray,
    weights: np.ndarray,
    open_: np.ndarray,
    start: np.ndarray,
    steps: list[list[_Step]],
    limit: float,
    part: bool,
) -> np.ndarray:
    choice, left = start.copy(), limit - _total(weights, start)
    queue = [(-row[0].rate, index, 0) for index, row in enumerate(steps) if row]
    heapq.heapify(queue)
    while queue:
        _, row, at = heapq.heappop(queue)
        step = steps[row][at]
        if step.weight > left:  # the row's later steps stand on this one
            if part:
                fits = open_[row] & (weights[row] - weights[row, choice[row]] <= left)
                column = int(np.argmin(np.where(fits, costs[row], np.inf)))
                left -= float(weights[row, column] - weights[row, choice[row]])
                choice[row] = column
            continue
        choice[row], left = step.column, left - step.weight
        if at + 1 < len(steps[row]):
            heapq.heappush(queue, (-steps[row][at + 1].rate, row, at + 1))
    rows = np.arange(len(choice))
    while True:  # what the hull leaves out may still fit
        saves = costs[rows, choice][:, None] - costs
        fits = open_ & (weights - weights[rows, choice][:, None] <= left) & (saves > 0)
        if not fits.any():
            return choice
        row, column = np.unravel_index(np.argmax(np.where(fits, saves, -np.inf)), saves.shape)
        left -= float(weights[row, column] - weights[row, choice[row]])
        choice[row] = column


def _core(
    costs: np.ndarray, weights: np.ndarray, open_: np.ndarray, choice: np.ndarray, bound: float, price: float
) -> np.ndarray:
    """The configurations that can be part of a choice better than `choice`: reduced cost within the gap."""
    priced = np.where(open_, costs + price * weights, np.inf)
    reduced = priced - priced.min(axis=1, keepdims=True)
    gap = _total(costs, choice) - bound
    core = open_ & (reduced <= gap + 1e-9 * (abs(gap) + abs(bound)))
    core[np.arange(len(choice)), choice] = True
    return core


def _milp(
    costs: np.ndarray, weights: np.ndarray, core: np.ndarray, limit: float, time_limit: float
) -> np.ndarray | None:
    from scipy import sparse
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, columns = np.nonzero(core)
    c, w = costs[core], weights[core]
    base = c.min()
    spread = float(c.max() - base) or 1.0
    one_each = sparse.csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(costs), len(rows)))
    unit = float(w.max()) or 1.0
    deadline, tight = time.monotonic() + time_limit, limit
    for _ in range(4):
        left = max(0.1, deadline - time.monotonic())
        result = milp(
            (c - base) / spread, integrality=np.ones(len(rows)), bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(w[None] / unit, -np.inf, tight / unit)],
            options={"time_limit": left, "mip_rel_gap": 1e-9},
        )  # fmt: skip
        if result.x is None:
            return None
        found = np.zeros(len(costs), dtype=np.int64)
        taken = result.x > 0.5
        found[rows[taken]] = columns[taken]
        over = _total(weights, found) - limit
        if over <= 0:
            return found
        tight -= over + 1e-9 * unit  # the solver's tolerance let it through
    return None


def _dp(costs: np.ndarray, weights: np.ndarray, core: np.ndarray, limit: float, time_limit: float) -> np.ndarray:
    floors = np.where(core, weights, np.inf).min(axis=1)
    extra = np.where(core, weights - floors[:, None], 0.0)
    unit = _unit(extra[core])
    steps = np.rint(extra / unit).astype(np.int64)
    size = math.floor((limit - float(floors.sum())) / unit + 1e-9) + 1
    size = min(size, int(np.where(core, steps, 0).max(axis=1).sum()) + 1)
    if size * int(core.sum()) > _CELLS:
        raise ValueError(
            f"dynamic programming would fill {size:,} steps of the budget × {int(core.sum()):,} configurations; "
            "weights in a coarser unit, or solver='milp', need less"
        )
    best, taken = np.zeros(size), np.zeros((len(costs), size), dtype=np.int32)
    for row in range(len(costs)):
        new = np.full(size, np.inf)
        for column in np.flatnonzero(core[row]):
            step = int(steps[row, column])
            if step >= size:
                continue
            here = best[: size - step] + costs[row, column]
            better = here < new[step:]
            new[step:][better] = here[better]
            taken[row, step:][better] = column
        best = new
    choice, at = np.zeros(len(costs), dtype=np.int64), int(np.argmin(best))
    for row in range(len(costs) - 1, -1, -1):
        choice[row] = taken[row, at]
        at -= int(steps[row, choice[row]])
    return choice


def _unit(extra: np.ndarray) -> float:
    """The largest unit of which all weights are multiples."""
    positive = np.unique(extra[extra > 0])
    if not len(positive):
        return 1.0
    for scale in (1, 10, 100, 1000):
        scaled = positive * scale
        if np.allclose(scaled, np.rint(scaled), rtol=0, atol=1e-6) and scaled.max() < 2**53:
            return float(np.gcd.reduce(np.rint(scaled).astype(np.int64))) / scale
    raise ValueError("weights have no common unit of at least 0.001; round them, or take solver='milp'")
