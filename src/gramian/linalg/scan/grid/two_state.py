r"""A two-dimensional recurrence: h¹ moves along time, h² across the variates, and each reads the other.

For the cell of variate v and time t, entry by entry of the state,

    h¹[v, t] = A1 h¹[v, t−1] + A2 h²[v, t−1] + b1
    h²[v, t] = A3 h¹[v−1, t] + A4 h²[v−1, t] + b2

with all six coefficients of that very cell. Nothing comes in beside the first variate; before the first time stands
the `state`. With A2 = A3 = 0 these are two families of ordinary recurrences.

Three forms agree: a double loop, a walk along the anti-diagonals v + t (all cells of one are independent; any
device), and a compiled kernel (CPU).

Source: Behrouz, Santacatterina and Zabih, "Chimera: Effectively Modeling Multivariate Time Series with 2-Dimensional
State Space Models" (arXiv 2406.04320), section 3. Diagonal transitions only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.scan.diagonal import diagonal_scan
from gramian.linalg.scan.grid.grid_ops import grid_scan_op

__all__ = ["FORMS", "GridState", "grid_scan", "grid_step"]

FORMS = ("auto", "kernel", "antidiagonal", "sequential")

Cells = Float[Tensor, "batch variates length state"]
Coefficients = Float[Tensor, "#batch #variates #length #state"]


class GridState(NamedTuple):
    """Both states of all variates at one time: what a piece of a series hands to the next."""

    time: Float[Tensor, "batch variates state"]
    across: Float[Tensor, "batch variates state"]


def grid_scan(
    A1: Coefficients,
    A2: Coefficients,
    A3: Coefficients,
    A4: Coefficients,
    b1: Cells,
    b2: Cells,
    state: GridState | None = None,
    *,
    reverse_variates: bool = False,
    form: str = "auto",
) -> tuple[Cells, Cells, GridState]:
    """Both states of every cell, and those of the last time; differentiable in every tensor.

    Coefficients that broadcast (an axis of size one) may be given as such: a constant transition is (1, 1, 1, state).

    Args:
        A1, A2: how the cell before in time enters h¹.
        A3, A4: how the cell of the variate before enters h².
        b1, b2: inputs, both of full size.
        state: both states before the first time; zeros if not given.
        reverse_variates: walk from the last variate to the first.
        form: ``kernel``, ``antidiagonal``, ``sequential``, or ``auto``: the kernel on a CPU, else anti-diagonals.

    Raises:
        ValueError: sizes that do not fit, an empty axis, an unknown form, a kernel that is not on the CPU.

    >>> one = torch.ones(1, 2, 3, 1)
    >>> h1, h2, last = grid_scan(one, 0 * one, one, 0 * one, one, 0 * one)
    >>> h1[0, :, :, 0].tolist(), h2[0, :, :, 0].tolist()       # sums in time, handed to the next variate
    ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
    tensors = _prepare((A1, A2, A3, A4, b1, b2), state)
    if form == "auto":
        form = "kernel" if b1.device.type == "cpu" else "antidiagonal"
    if form == "kernel" and b1.device.type != "cpu":
        raise ValueError(f"the compiled kernel runs on the CPU; the inputs are on {b1.device}: use form='antidiagonal'")
    run = {"kernel": grid_scan_op, "antidiagonal": _antidiagonal, "sequential": _sequential}[form]
    h1, h2 = run(*tensors, reverse_variates)
    return h1, h2, GridState(h1[:, :, -1], h2[:, :, -1])


def grid_step(
    A1: Float[Tensor, "#batch #variates #state"],
    A2: Float[Tensor, "#batch #variates #state"],
    A3: Float[Tensor, "#batch #variates #state"],
    A4: Float[Tensor, "#batch #variates #state"],
    b1: Float[Tensor, "batch variates state"],
    b2: Float[Tensor, "batch variates state"],
    state: GridState,
    *,
    reverse_variates: bool = False,
) -> GridState:
    """One time of `grid_scan`, all variates: h¹ is one product, h² a scan over the variates."""
    time = A1 * state.time + A2 * state.across + b1
    edge = torch.zeros_like(time[:, :1])
    before = torch.cat((time[:, 1:], edge), 1) if reverse_variates else torch.cat((edge, time[:, :-1]), 1)
    A4 = A4.expand_as(b2)
    across, _ = diagonal_scan(A4, b2 + A3 * before, reverse=reverse_variates)
    return GridState(time, across)


def _sequential(
    A1: Tensor, A2: Tensor, A3: Tensor, A4: Tensor, b1: Tensor, b2: Tensor, s1: Tensor, s2: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Cell by cell: the oracle."""
    variates, length = b1.shape[1:3]
    rows1: dict[int, list[Tensor]] = {}
    rows2: dict[int, list[Tensor]] = {}
    zero = torch.zeros_like(s1[:, 0])
    order = range(variates - 1, -1, -1) if reverse else range(variates)
    for v in order:
        u = v + 1 if reverse else v - 1
        one, two = s1[:, v], s2[:, v]
        rows1[v], rows2[v] = [], []
        for t in range(length):
            above1, above2 = (rows1[u][t], rows2[u][t]) if u in rows1 else (zero, zero)
            one, two = (
                A1[:, v, t] * one + A2[:, v, t] * two + b1[:, v, t],
                A3[:, v, t] * above1 + A4[:, v, t] * above2 + b2[:, v, t],
            )
            rows1[v].append(one)
            rows2[v].append(two)
    h1, h2 = (torch.stack([torch.stack(rows[v], 1) for v in range(variates)], 1) for rows in (rows1, rows2))
    return h1, h2


def _antidiagonal(
    A1: Tensor, A2: Tensor, A3: Tensor, A4: Tensor, b1: Tensor, b2: Tensor, s1: Tensor, s2: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """All cells with the same v + t at once: variates + length − 1 steps."""
    tensors = (A1, A2, A3, A4, b1, b2)
    if reverse:
        tensors, s1, s2 = tuple(x.flip(1) for x in tensors), s1.flip(1), s2.flip(1)
    variates, length = b1.shape[1:3]
    row = torch.arange(variates, device=b1.device)
    diagonal = torch.arange(variates + length - 1, device=b1.device)
    time = diagonal[:, None] - row  # (diagonal, variate)
    inside = ((time >= 0) & (time < length))[None, :, :, None]
    place = time.clamp(0, length - 1)
    # (batch, diagonal, variate, state), zero where a diagonal has no cell
    sheared = [torch.where(inside, x[:, row, place], 0.0).unbind(1) for x in tensors]
    one, two, found = torch.zeros_like(s1), torch.zeros_like(s2), []
    for d, (a1, a2, a3, a4, x1, x2) in enumerate(zip(*sheared, strict=True)):
        first = (row == d)[None, :, None]  # cells at time 0 read the given state
        before1, before2 = torch.where(first, s1, one), torch.where(first, s2, two)
        above1, above2 = (torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1) for x in (one, two))
        one, two = a1 * before1 + a2 * before2 + x1, a3 * above1 + a4 * above2 + x2
        found.append((one, two))
    cells = torch.arange(length, device=b1.device)
    out = []
    for part in range(2):
        states = torch.stack([pair[part] for pair in found], 1)
        h = states[:, row[:, None] + cells, row[:, None]]
        out.append(h.flip(1) if reverse else h)
    return out[0], out[1]


def _prepare(tensors: tuple[Tensor, ...], state: GridState | None) -> tuple[Tensor, ...]:
    """Check the sizes, broadcast, go to the working precision, make the first state."""
    shape = tensors[4].shape
    if len(shape) != 4 or 0 in shape[1:]:
        raise ValueError(
            f"b1 must be (batch, variates, length, state) with at least one variate, one time and one entry; got "
            f"{tuple(shape)}"
        )
    for name, x in zip(("A1", "A2", "A3", "A4", "b1", "b2"), tensors, strict=True):
        fits = x.dim() == 4 and all(a in (1, b) for a, b in zip(x.shape, shape, strict=True))
        if not fits or (name == "b2" and x.shape != shape):
            raise ValueError(f"{name} has shape {tuple(x.shape)}; with b1 {tuple(shape)} it must have that shape"
                             " (coefficients may have axes of size one)")  # fmt: skip
    edge = (shape[0], shape[1], shape[3])
    given = () if state is None else tuple(state)
    for x in given:
        if tuple(x.shape) != edge:
            raise ValueError(f"state has parts of shape {tuple(x.shape)}; with b1 {tuple(shape)} they must be {edge}")
    wide = any(x.dtype == torch.float64 for x in (*tensors, *given))
    dtype = torch.float64 if wide else torch.float32
    starts = given or tuple(tensors[4].new_zeros(edge, dtype=dtype) for _ in range(2))
    return *(x.to(dtype).expand(shape) for x in tensors), *(x.to(dtype) for x in starts)
