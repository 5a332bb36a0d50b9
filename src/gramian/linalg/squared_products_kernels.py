"""The compiled sum of squared matrix products; `gramian.linalg.squared_products` is its public face."""

import typing

import numpy as np

from gramian.linalg import simd
from gramian.linalg.kernels import numba, warmup
from gramian.linalg.simd import LANES

ROWS = 6  # six vectors of sixteen numbers fill twelve of AVX2's sixteen registers; the rest hold what is read


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def add_squared_products(task, total, left, right, samples, positions):
    """One panel of columns: total[:, panel] += Σ over samples of (leftᵀ right)², element by element.

    Args:
        total: (rows, columns) flat, both padded.
        left: (rows / ROWS, samples · positions, ROWS) flat.
        right: (columns / LANES, samples · positions, LANES) flat.
    """
    steps = samples * positions
    columns = right.shape[0] // steps
    panels = left.shape[0] // (steps * ROWS)
    for panel in range(panels):
        s0 = s1 = s2 = s3 = s4 = s5 = simd.zero_like(total)
        g, a = panel * steps * ROWS, task * steps * LANES
        for _ in range(samples):
            p0 = p1 = p2 = p3 = p4 = p5 = simd.zero_like(total)
            for _ in range(positions):
                x = simd.load(right, a)
                p0 += x * simd.splat(left, g)
                p1 += x * simd.splat(left, g + 1)
                p2 += x * simd.splat(left, g + 2)
                p3 += x * simd.splat(left, g + 3)
                p4 += x * simd.splat(left, g + 4)
                p5 += x * simd.splat(left, g + 5)
                a += LANES
                g += ROWS
            s0 += p0 * p0
            s1 += p1 * p1
            s2 += p2 * p2
            s3 += p3 * p3
            s4 += p4 * p4
            s5 += p5 * p5
        place = panel * ROWS * columns + task * LANES
        simd.store(total, place, simd.load(total, place) + s0)
        simd.store(total, place + columns, simd.load(total, place + columns) + s1)
        simd.store(total, place + 2 * columns, simd.load(total, place + 2 * columns) + s2)
        simd.store(total, place + 3 * columns, simd.load(total, place + 3 * columns) + s3)
        simd.store(total, place + 4 * columns, simd.load(total, place + 4 * columns) + s4)
        simd.store(total, place + 5 * columns, simd.load(total, place + 5 * columns) + s5)


@warmup
def _compile() -> None:
    for kind in (np.float32, np.float64):
        left, right = np.ones(ROWS, dtype=kind), np.ones(LANES, dtype=kind)
        add_squared_products(0, np.zeros(ROWS * LANES, dtype=kind), left, right, 1, 1)
