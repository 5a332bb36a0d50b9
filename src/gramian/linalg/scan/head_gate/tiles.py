"""Small matrices in the first-level cache: load, store, transpose, multiply, inside compiled kernels.

A tile is a flat array of rows, `wide(columns)` numbers apart; what lies beyond its rows and columns is zero.
"""

import typing

from gramian.linalg import simd
from gramian.linalg.kernels import numba
from gramian.linalg.simd import LANES

FULL, LOWER, UPPER, BELOW = 0, 1, 2, 3
"""What `multiply` does: all; a left factor zero above or below its diagonal; the product below its diagonal."""


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def wide(columns):
    """Columns rounded up to whole vectors."""
    return (columns + LANES - 1) // LANES * LANES


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def load(source, start, stride, rows, columns, tile, room):
    """tile[i, j] = source[start + i * stride + j]; rows up to `room` and columns beyond the last are zero."""
    width = wide(columns)
    whole = columns - columns % LANES
    for i in range(rows):
        for j in range(0, whole, LANES):
            simd.store(tile, i * width + j, simd.load(source, start + i * stride + j))
        for j in range(whole, columns):
            tile[i * width + j] = source[start + i * stride + j]
        for j in range(columns, width):
            tile[i * width + j] = 0.0
    tile[rows * width : room * width] = 0.0


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def save(tile, target, start, stride, rows, columns):
    """The inverse of `load`."""
    width = wide(columns)
    whole = columns - columns % LANES
    for i in range(rows):
        for j in range(0, whole, LANES):
            simd.store(target, start + i * stride + j, simd.load(tile, i * width + j))
        for j in range(whole, columns):
            target[start + i * stride + j] = tile[i * width + j]


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def transpose(tile, offset, rows, columns, target):
    """target[j, i] = tile[i, j]; both counts are whole vectors."""
    for i in range(0, rows, 8):
        for j in range(0, columns, 8):
            simd.transpose8(tile, offset + i * columns + j, columns, target, j * rows + i, rows)


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def scale_rows(tile, offset, factors, rows, columns, target):
    """target[i, :] = factors[i] * tile[i, :]; whole vectors of columns."""
    for i in range(rows):
        factor = simd.splat(factors, i)
        for j in range(0, columns, LANES):
            simd.store(target, i * columns + j, factor * simd.load(tile, offset + i * columns + j))


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def multiply(out, offset, a, a_row, a_column, b, b_offset, rows, inner, columns, shape, keep):
    """out[i, :] = Σ_k a[i * a_row + k * a_column] b[k, :], added to what is there if `keep`.

    Four rows and one vector of columns are summed in registers. `rows` is a multiple of four, `columns` of `LANES`.
    With `LOWER` no number of `b` is touched by a row above it, so that a NaN stays where it belongs.
    """
    for i in range(0, rows, 4):
        low = i if shape == UPPER else 0
        high = i if shape == LOWER else inner
        first = i * a_row
        for p in range(0, i // LANES * LANES + LANES if shape == BELOW else columns, LANES):
            place = offset + i * columns + p
            if keep:
                s0, s1 = simd.load(out, place), simd.load(out, place + columns)
                s2, s3 = simd.load(out, place + 2 * columns), simd.load(out, place + 3 * columns)
            else:
                s0, s1, s2, s3 = simd.zero_like(out), simd.zero_like(out), simd.zero_like(out), simd.zero_like(out)
            for k in range(low, high):
                row = simd.load(b, b_offset + k * columns + p)
                at = first + k * a_column
                s0 += simd.splat(a, at) * row
                s1 += simd.splat(a, at + a_row) * row
                s2 += simd.splat(a, at + 2 * a_row) * row
                s3 += simd.splat(a, at + 3 * a_row) * row
            if shape == LOWER:  # the corner on the diagonal, row by row
                at, row = first + i * a_column, b_offset + i * columns + p
                b0, b1 = simd.load(b, row), simd.load(b, row + columns)
                b2, b3 = simd.load(b, row + 2 * columns), simd.load(b, row + 3 * columns)
                s0 += simd.splat(a, at) * b0
                at += a_row
                s1 += simd.splat(a, at) * b0 + simd.splat(a, at + a_column) * b1
                at += a_row
                s2 += simd.splat(a, at) * b0 + simd.splat(a, at + a_column) * b1
                s2 += simd.splat(a, at + 2 * a_column) * b2
                at += a_row
                s3 += simd.splat(a, at) * b0 + simd.splat(a, at + a_column) * b1
                s3 += simd.splat(a, at + 2 * a_column) * b2 + simd.splat(a, at + 3 * a_column) * b3
            simd.store(out, place, s0)
            simd.store(out, place + columns, s1)
            simd.store(out, place + 2 * columns, s2)
            simd.store(out, place + 3 * columns, s3)


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def row_products(a, b, rows, columns, out):
    """out[i] = Σ_j a[i, j] b[i, j]."""
    for i in range(rows):
        total = a.dtype.type(0.0)
        for j in range(columns):
            total += a[i * columns + j] * b[i * columns + j]
        out[i] = total
