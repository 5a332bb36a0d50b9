"""The compiled product of floats with packed signs; `gramian.linalg.factor.quant.bit_products` is its public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def float_sign_products(task, x, signs, out, rows_per_task):
    """out[i, o] = Σⱼ ±x[i, j], the sign a bit: of each eight numbers all 256 sums are made once, then looked up."""
    octets = signs.shape[1]
    table = np.empty((octets, 256), dtype=x.dtype)
    for i in range(task * rows_per_task, min(x.shape[0], (task + 1) * rows_per_task)):
        for b in range(octets):
            total = x.dtype.type(0)
            for j in range(8):
                total -= x[i, 8 * b + j]
            table[b, 0] = total
            for j in range(8):
                twice = 2 * x[i, 8 * b + j]
                for known in range(1 << j):
                    table[b, (1 << j) + known] = table[b, known] + twice
        for o in range(signs.shape[0]):
            total = x.dtype.type(0)
            for b in range(octets):
                total += table[b, signs[o, b]]
            out[i, o] = total


@warmup
def _compile() -> None:
    signs = np.zeros((1, 1), dtype=np.uint8)
    for dtype in (np.float32, np.float64):
        float_sign_products(0, np.zeros((1, 8), dtype=dtype), signs, np.empty((1, 1), dtype=dtype), 1)
