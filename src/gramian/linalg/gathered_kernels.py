"""The compiled products that skip zeros; `gramian.linalg.gathered` is their public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup

_SUMS = {"reassoc", "contract", "nsz"}  # a sum may be taken in lanes; NaN and infinity keep their meaning


@numba.njit(nogil=True, cache=True, fastmath=_SUMS)
@typing.no_type_check
def _chosen(weights, thresholds, start, stop):
    """The rows in start … stop - 1 whose weight is neither zero nor under its threshold, and how many they are."""
    found, count = np.empty(stop - start, dtype=np.intp), 0
    for i in range(start, stop):
        found[count] = i
        if weights[i] != 0 and not abs(weights[i]) < thresholds[min(i, thresholds.shape[0] - 1)]:  # NaN stays
            count += 1
    return found, count


@numba.njit(nogil=True, cache=True, fastmath=_SUMS)
@typing.no_type_check
def gated_rows(task, x, up, down, gate, thresholds, out, rows_per_task):
    """out[task] = Σ over this task's rows i with gate_i ≠ 0, |gate_i| ≥ thresholds_i, of gate_i (up_i · x) down_i.

    Four rows at a time: one row after the other waits for memory, and reads and writes `out` as often.
    """
    width, outputs = x.shape[0], out.shape[1]
    start = task * rows_per_task
    rows, count = _chosen(gate, thresholds, start, min(gate.shape[0], start + rows_per_task))
    out[task] = 0
    for r in range(0, count - 3, 4):
        i, j, k, n = rows[r], rows[r + 1], rows[r + 2], rows[r + 3]
        first = second = third = fourth = x.dtype.type(0)
        for w in range(width):
            first += up[i, w] * x[w]
            second += up[j, w] * x[w]
            third += up[k, w] * x[w]
            fourth += up[n, w] * x[w]
        first, second, third, fourth = first * gate[i], second * gate[j], third * gate[k], fourth * gate[n]
        for o in range(outputs):
            out[task, o] += first * down[i, o] + second * down[j, o] + third * down[k, o] + fourth * down[n, o]
    for r in range(count - count % 4, count):
        i = rows[r]
        first = x.dtype.type(0)
        for w in range(width):
            first += up[i, w] * x[w]
        first *= gate[i]
        for o in range(outputs):
            out[task, o] += first * down[i, o]


@numba.njit(nogil=True, cache=True, fastmath=_SUMS)
@typing.no_type_check
def summed_rows(task, weights, rows, out, rows_per_task):
    """out[task] = Σ over this task's rows i with weights_i ≠ 0 of weights_i rows_i, four rows at a time."""
    outputs, start = out.shape[1], task * rows_per_task
    chosen, count = _chosen(
        weights, np.zeros(1, dtype=weights.dtype), start, min(weights.shape[0], start + rows_per_task)
    )
    out[task] = 0
    for r in range(0, count - 3, 4):
        i, j, k, n = chosen[r], chosen[r + 1], chosen[r + 2], chosen[r + 3]
        for o in range(outputs):
            out[task, o] += (
                weights[i] * rows[i, o] + weights[j] * rows[j, o] + weights[k] * rows[k, o] + weights[n] * rows[n, o]
            )
    for r in range(count - count % 4, count):
        i = chosen[r]
        for o in range(outputs):
            out[task, o] += weights[i] * rows[i, o]


@warmup
def _compile() -> None:
    for kind in (np.float32, np.float64):
        row, matrix = np.ones(1, dtype=kind), np.ones((1, 1), dtype=kind)
        gated_rows(0, row, matrix, matrix, row, row, np.empty_like(matrix), 1)
        summed_rows(0, row, matrix, np.empty_like(matrix), 1)
