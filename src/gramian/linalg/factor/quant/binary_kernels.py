"""The compiled product of packed signs; `gramian.linalg.factor.quant.binary` is its public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup


@numba.njit(nogil=True, cache=True, inline="always")
@typing.no_type_check
def ones(word):
    """How many bits of a 64-bit word are set (compilers turn this into the processor's own instruction)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def sign_products(task, a, given, b, out, rows_per_task):
    """out[i, o] = Σⱼ over the given entries of aᵢⱼ b_oⱼ: how many are given, less twice how many differ."""
    words = a.shape[1]
    for i in range(task * rows_per_task, min(a.shape[0], (task + 1) * rows_per_task)):
        g = min(i, given.shape[0] - 1)
        known = np.uint64(0)
        for w in range(words):
            known += ones(given[g, w])
        for o in range(b.shape[0]):
            differ = np.uint64(0)
            for w in range(words):
                differ += ones((a[i, w] ^ b[o, w]) & given[g, w])
            out[i, o] = np.int64(known) - 2 * np.int64(differ)


@warmup
def _compile() -> None:
    word = np.ones((1, 1), dtype=np.uint64)
    sign_products(0, word, word, word, np.empty((1, 1), dtype=np.int32), 1)
