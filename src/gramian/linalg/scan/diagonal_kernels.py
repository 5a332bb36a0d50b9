"""The compiled diagonal recurrence; `gramian.linalg.scan.diagonal` is its public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def diagonal_scan_rows(task, a, b, state, out, reverse, rows_per_task):
    """h_t = a_t h_{t−1} + b_t on the rows of one task; axes of `a` of size one stand for all rows or times."""
    rows, length, states = b.shape
    for row in range(task * rows_per_task, min(rows, (task + 1) * rows_per_task)):
        a_row = row if a.shape[0] > 1 else 0
        for index in range(length):
            t = length - 1 - index if reverse else index
            a_time = t if a.shape[1] > 1 else 0
            if index == 0:
                for n in range(states):
                    out[row, t, n] = a[a_row, a_time, n] * state[row, n] + b[row, t, n]
            else:
                before = t + 1 if reverse else t - 1
                for n in range(states):
                    out[row, t, n] = a[a_row, a_time, n] * out[row, before, n] + b[row, t, n]


@warmup
def _compile() -> None:
    for kind in (np.float32, np.float64, np.complex64, np.complex128):
        values = np.ones((1, 1, 1), dtype=kind)
        diagonal_scan_rows(0, values, values, values[0], np.empty_like(values), False, 1)
