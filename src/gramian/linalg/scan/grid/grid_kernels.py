"""The compiled two-state recurrence over a grid and its adjoint; `gramian.linalg.scan.grid.two_state` is their face.

A task is one batch entry: all its cells, row by row, the innermost loop over the state.
"""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def grid_forward(task, A1, A2, A3, A4, b1, b2, s1, s2, h1, h2, reverse):
    """Both states of every cell of one batch entry."""
    variates, length, size = b1.shape[1:]
    for row in range(variates):
        v = variates - 1 - row if reverse else row
        u = v + 1 if reverse else v - 1
        for t in range(length):
            if t == 0:
                for n in range(size):
                    h1[task, v, t, n] = (
                        A1[task, v, t, n] * s1[task, v, n] + A2[task, v, t, n] * s2[task, v, n] + b1[task, v, t, n]
                    )
            else:
                for n in range(size):
                    h1[task, v, t, n] = (
                        A1[task, v, t, n] * h1[task, v, t - 1, n]
                        + A2[task, v, t, n] * h2[task, v, t - 1, n]
                        + b1[task, v, t, n]
                    )
            if row == 0:
                for n in range(size):
                    h2[task, v, t, n] = b2[task, v, t, n]
            else:
                for n in range(size):
                    h2[task, v, t, n] = (
                        A3[task, v, t, n] * h1[task, u, t, n]
                        + A4[task, v, t, n] * h2[task, u, t, n]
                        + b2[task, v, t, n]
                    )


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def grid_backward(task, A1, A2, A3, A4, d1, d2, g1, g2, reverse):
    """The adjoint: what reaches each state of each cell of one batch entry, from the gradients d1 and d2."""
    variates, length, size = d1.shape[1:]
    for row in range(variates - 1, -1, -1):
        v = variates - 1 - row if reverse else row
        w = v - 1 if reverse else v + 1  # the row that reads this one
        for t in range(length - 1, -1, -1):
            for n in range(size):
                g1[task, v, t, n] = d1[task, v, t, n]
                g2[task, v, t, n] = d2[task, v, t, n]
            if t + 1 < length:
                for n in range(size):
                    later = g1[task, v, t + 1, n]
                    g1[task, v, t, n] += A1[task, v, t + 1, n] * later
                    g2[task, v, t, n] += A2[task, v, t + 1, n] * later
            if row + 1 < variates:
                for n in range(size):
                    across = g2[task, w, t, n]
                    g1[task, v, t, n] += A3[task, w, t, n] * across
                    g2[task, v, t, n] += A4[task, w, t, n] * across


@warmup
def _compile() -> None:
    for kind in (np.float32, np.float64):
        cells, edge = [np.ones((1, 2, 2, 1), dtype=kind) for _ in range(8)], np.ones((1, 2, 1), dtype=kind)
        grid_forward(0, *cells[:6], edge, edge, *cells[6:], False)
        grid_backward(0, *cells, False)
