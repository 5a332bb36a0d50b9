"""The compiled products that skip zeros; `gramian.linalg.gathered` is their public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup

_SUMS = {"reassoc", "contract", "nsz"}  # a sum may be taken in lanes; NaN and infinity keep their meaning


@numba.njit(nogil=True, cache=True, fastmath=_SUMS)
@typing.no_type_check
def gated_rows(task, x, up, down, gate, out, rows_per_task):
    """out[task] = Σ over this task's rows i with gate_i ≠ 0 of gate_i (up_i · x) down_i."""
    width, outputs = x.shape[0], out.shape[1]
    for o in range(outputs):
        out[task, o] = 0
    for i in range(task * rows_per_task, min(gate.shape[0], (task + 1) * rows_per_task)):
        if gate[i] == 0:
            continue
        total = x.dtype.type(0)
        for w in range(width):
            total += up[i, w] * x[w]
        total *= gate[i]
        for o in range(outputs):
            out[task, o] += total * down[i, o]


@numba.njit(nogil=True, cache=True, fastmath=_SUMS)
@typing.no_type_check
def summed_rows(task, weights, rows, out, rows_per_task):
    """out[task] = Σ over this task's rows i with weights_i ≠ 0 of weights_i rows_i."""
    outputs = out.shape[1]
    for o in range(outputs):
        out[task, o] = 0
    for i in range(task * rows_per_task, min(weights.shape[0], (task + 1) * rows_per_task)):
        weight = weights[i]
        if weight == 0:
            continue
        for o in range(outputs):
            out[task, o] += weight * rows[i, o]


@warmup
def _compile() -> None:
    for kind in (np.float32, np.float64):
        row, matrix = np.ones(1, dtype=kind), np.ones((1, 1), dtype=kind)
        gated_rows(0, row, matrix, matrix, row, np.empty_like(matrix), 1)
        summed_rows(0, row, matrix, np.empty_like(matrix), 1)
