"""The compiled kernels of the short causal convolution, forward and backward.

A task is one batch entry and one run of `SEGMENT` positions. The inner loops run over channels, `LANES` at a time;
the rows that a position reads (its own and the width − 1 before it) stay in the first-level cache.
"""

import math
import typing

import numpy as np

from gramian.linalg import simd
from gramian.linalg.kernels import numba
from gramian.linalg.simd import LANES

SEGMENT = 64
"""Positions of a task; by shape alone, so that sums keep their order."""


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _sigmoid(z):
    """Of one number."""
    return 1.0 / (1.0 + math.exp(-z))


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _one(x, entry, t, c, sizes, strides, state):
    """Input `c` at position `t`, from the carried inputs where t < 0."""
    batch, length, channels, width = sizes
    if t >= 0:
        return x[entry * strides[0] + t * strides[1] + c]
    return state[(entry * (width - 1) + t + width - 1) * channels + c]


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _sum_one(x, entry, t, c, sizes, strides, weight, bias, state, has_bias):
    """The convolution at one position and channel."""
    width = sizes[3]
    total = bias[c] if has_bias else x.dtype.type(0.0)
    for j in range(width):
        total += weight[j * sizes[2] + c] * _one(x, entry, t - width + 1 + j, c, sizes, strides, state)
    return total


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def forward(task, sizes, strides, flags, x, weight, bias, state, y):
    """One task of the forward pass: a run of rows of y is written."""
    batch, length, channels, width = sizes
    has_bias, silu = flags
    segments = (length + SEGMENT - 1) // SEGMENT
    entry, start = task // segments, task % segments * SEGMENT
    whole = channels - channels % LANES
    for t in range(start, min(start + SEGMENT, length)):
        first = 0
        target = (entry * length + t) * channels
        if t >= width - 1:
            base = entry * strides[0] + (t - width + 1) * strides[1]
            for c in range(0, whole, LANES):
                total = simd.zero_like(x)
                if has_bias:
                    total = simd.load(bias, c)
                for j in range(width):
                    total += simd.load(weight, j * channels + c) * simd.load(x, base + j * strides[1] + c)
                if silu:
                    total = total * simd.sigmoid(total)
                simd.store(y, target + c, total)
            first = whole
        for c in range(first, channels):
            total = _sum_one(x, entry, t, c, sizes, strides, weight, bias, state, has_bias)
            if silu:
                total *= _sigmoid(total)
            y[target + c] = total


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _slopes(entry, t, sizes, strides, flags, x, weight, bias, state, dy, out, offset):
    """One row of the gradient before the activation, into out[offset:]."""
    batch, length, channels, width = sizes
    has_bias, silu = flags
    source = (entry * length + t) * channels
    whole = channels - channels % LANES if t >= width - 1 else 0
    base = entry * strides[0] + (t - width + 1) * strides[1]
    for c in range(0, whole, LANES):
        slope = simd.load(dy, source + c)
        if silu:
            total = simd.zero_like(x)
            if has_bias:
                total = simd.load(bias, c)
            for j in range(width):
                total += simd.load(weight, j * channels + c) * simd.load(x, base + j * strides[1] + c)
            gate = simd.sigmoid(total)
            slope = slope * gate * (1.0 + total * (1.0 - gate))
        simd.store(out, offset + c, slope)
    for c in range(whole, channels):
        slope = dy[source + c]
        if silu:
            total = _sum_one(x, entry, t, c, sizes, strides, weight, bias, state, has_bias)
            gate = _sigmoid(total)
            slope *= gate * (1.0 + total * (1.0 - gate))
        out[offset + c] = slope


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _collect(slopes, row, rows, sizes, weight, target, place):
    """target[place:] = Σ_j w_j slopes[row + width − 1 − j], over the rows that exist (0 … rows − 1)."""
    channels, width = sizes[2], sizes[3]
    whole = channels - channels % LANES
    low, high = max(0, row + width - rows), min(width, row + width)  # 0 ≤ row + width − 1 − j < rows
    for c in range(0, whole, LANES):
        total = simd.zero_like(slopes)
        for j in range(low, high):
            total += simd.load(weight, j * channels + c) * simd.load(slopes, (row + width - 1 - j) * channels + c)
        simd.store(target, place + c, total)
    for c in range(whole, channels):
        total = slopes.dtype.type(0.0)
        for j in range(low, high):
            total += weight[j * channels + c] * slopes[(row + width - 1 - j) * channels + c]
        target[place + c] = total


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def backward(task, sizes, strides, flags, x, weight, bias, state, dy, dx, dweight, dbias, dstate):
    """One task of the backward pass: its rows of dx, its own slices of dweight and dbias, and dstate by the first."""
    batch, length, channels, width = sizes
    segments = (length + SEGMENT - 1) // SEGMENT
    entry, start = task // segments, task % segments * SEGMENT
    stop = min(start + SEGMENT, length)
    rows = min(stop + width - 1, length) - start  # what the last own rows still feed
    slopes = np.empty(rows * channels, x.dtype)
    for i in range(rows):
        _slopes(entry, start + i, sizes, strides, flags, x, weight, bias, state, dy, slopes, i * channels)
    for i in range(stop - start):
        _collect(slopes, i, rows, sizes, weight, dx, (entry * length + start + i) * channels)
    if start == 0:
        for i in range(width - 1):
            _collect(slopes, i - width + 1, rows, sizes, weight, dstate, (entry * (width - 1) + i) * channels)
    own = task * width * channels
    dweight[own : own + width * channels] = 0.0
    dbias[task * channels : (task + 1) * channels] = 0.0
    whole = channels - channels % LANES
    for t in range(start, stop):
        row = (t - start) * channels
        near = t < width - 1
        base = entry * strides[0] + (t - width + 1) * strides[1]
        for c in range(0, 0 if near else whole, LANES):
            slope = simd.load(slopes, row + c)
            simd.store(dbias, task * channels + c, simd.load(dbias, task * channels + c) + slope)
            for j in range(width):
                place = own + j * channels + c
                simd.store(dweight, place, simd.load(dweight, place) + slope * simd.load(x, base + j * strides[1] + c))
        for c in range(0 if near else whole, channels):
            slope = slopes[row + c]
            dbias[task * channels + c] += slope
            for j in range(width):
                value = _one(x, entry, t - width + 1 + j, c, sizes, strides, state)
                dweight[own + j * channels + c] += slope * value
