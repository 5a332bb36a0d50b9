"""The compiled kernels of the selective scan, forward and backward.

A task is one batch entry and one range of channels of one group. It moves in blocks of `LANES` channels (a lane a
channel) through chunks of `CHUNK` steps. The inputs of a block and chunk are transposed into (time, lane) tiles that
stay in the first-level cache; every state coordinate then runs over the chunk in registers. The forward kernel
keeps the state at each chunk's start; the backward kernel recomputes the states of a chunk from it.

Sums over channels (the gradients of B and C) are kept lane by lane in the task's own buffers and folded once a chunk;
what several tasks add to the same place goes into one slice a task, and the caller adds the slices in order.
"""

import math
import typing

import numpy as np

from gramian.linalg import simd
from gramian.linalg.kernels import numba
from gramian.linalg.simd import LANES

CHUNK = 64
"""Steps between two kept states."""

_HALF = LANES // 2
_LOG2E = 1 / math.log(2)


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _load_tile(source, start, stride, rows, count, reverse, tile):
    """tile[t, lane] = source[start + lane * stride + t], time mirrored if `reverse`, zeros beyond `rows`."""
    for lane in range(0, LANES, 8):
        done = 0
        if lane + 8 <= rows:
            done = count - count % 8
            for t in range(0, done, 8):
                place = (count - 1 - t if reverse else t) * LANES + lane
                simd.transpose8(source, start + lane * stride + t, stride, tile, place, -LANES if reverse else LANES)
        for i in range(lane, lane + 8):
            for t in range(done, count):
                place = (count - 1 - t if reverse else t) * LANES + i
                if i < rows:
                    tile[place] = source[start + i * stride + t]
                else:
                    tile[place] = 0.0


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _store_tile(tile, target, start, stride, rows, count, reverse):
    """The inverse of `_load_tile`; lanes beyond `rows` are not written."""
    for lane in range(0, rows, 8):
        done = 0
        if lane + 8 <= rows:
            done = count - count % 8
            for t in range(0, done, 8):
                place = (count - 1 - t if reverse else t) * LANES + lane
                simd.transpose8(tile, place, -LANES if reverse else LANES, target, start + lane * stride + t, stride)
        for i in range(lane, min(lane + 8, rows)):
            for t in range(done, count):
                target[start + i * stride + t] = tile[(count - 1 - t if reverse else t) * LANES + i]


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _load_lanes(source, start, stride, rows, tile, offset):
    """tile[offset + lane] = source[start + lane * stride], zeros beyond `rows`."""
    for lane in range(LANES):
        tile[offset + lane] = source[start + lane * stride] if lane < rows else 0.0


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _range_of(part, parts, blocks):
    """The blocks of a part, the remainder spread over the first parts."""
    size, left = blocks // parts, blocks % parts
    start = part * size + min(part, left)
    return start, start + size + (1 if part < left else 0)


@typing.no_type_check
def make_kernels(signed):
    """The forward and the backward kernel for Ā = exp(Δ A), or for Ā = 2 exp(Δ A) − 1 if `signed`."""

    @numba.njit(nogil=True, cache=True)
    def forward(
        task, sizes, flags, u, dt, A, B, C, D, z, dt_bias, state, y, last, kept
    ):  # fmt: skip
        """One task of the forward pass: y, last and kept are written."""
        batch, channels, length, size, groups, parts = sizes
        has_D, has_z, has_bias, soft, reverse, has_state, keep = flags
        entry, group, part = task // (groups * parts), task // parts % groups, task % parts
        width = channels // groups
        blocks = (width + LANES - 1) // LANES
        chunks = (length + CHUNK - 1) // CHUNK
        h = np.empty(size * LANES, u.dtype)
        rates = np.empty(size * LANES, u.dtype)
        lanes = np.empty(LANES, u.dtype)
        steps = np.empty(CHUNK * LANES, u.dtype)
        inputs = np.empty(CHUNK * LANES, u.dtype)
        outputs = np.empty(CHUNK * LANES, u.dtype)
        gate = np.empty(CHUNK * LANES, u.dtype)
        first, after = _range_of(part, parts, blocks)
        for block in range(first, after):
            channel = group * width + block * LANES
            rows = min(LANES, width - block * LANES)
            row = entry * channels + channel
            bias = simd.zero_like(u)
            skip = simd.zero_like(u)
            if has_bias:
                _load_lanes(dt_bias, channel, 1, rows, lanes, 0)
                bias = simd.load(lanes, 0)
            if has_D:
                _load_lanes(D, channel, 1, rows, lanes, 0)
                skip = simd.load(lanes, 0)
            for n in range(size):
                _load_lanes(A, channel * size + n, size, rows, rates, n * LANES)
                simd.store(rates, n * LANES, simd.load(rates, n * LANES) * _LOG2E)
                if has_state:
                    _load_lanes(state, row * size + n, size, rows, h, n * LANES)
                else:
                    simd.store(h, n * LANES, simd.zero_like(u))
            for chunk in range(chunks):
                if keep:
                    place = ((entry * groups + group) * blocks + block) * chunks + chunk
                    for n in range(0, size * LANES, LANES):
                        simd.store(kept, place * size * LANES + n, simd.load(h, n))
                begin = chunk * CHUNK
                count = min(CHUNK, length - begin)
                time = length - begin - count if reverse else begin
                _load_tile(dt, row * length + time, length, rows, count, reverse, steps)
                _load_tile(u, row * length + time, length, rows, count, reverse, inputs)
                for t in range(0, count * LANES, LANES):
                    delta = simd.load(steps, t) + bias
                    if soft:
                        delta = simd.softplus(delta)
                    x = simd.load(inputs, t)
                    simd.store(steps, t, delta)
                    simd.store(outputs, t, skip * x)
                    simd.store(inputs, t, delta * x)
                for n in range(size):
                    rate = simd.load(rates, n * LANES)
                    s = simd.load(h, n * LANES)
                    at = ((entry * groups + group) * size + n) * length + (length - 1 - begin if reverse else begin)
                    for t in range(count):
                        decay = simd.exp2(simd.load(steps, t * LANES) * rate)
                        if signed:
                            decay = decay + decay - 1.0
                        i = at - t if reverse else at + t
                        s = decay * s + simd.load(inputs, t * LANES) * simd.splat(B, i)
                        simd.store(outputs, t * LANES, simd.load(outputs, t * LANES) + s * simd.splat(C, i))
                    simd.store(h, n * LANES, s)
                if has_z:
                    _load_tile(z, row * length + time, length, rows, count, reverse, gate)
                    for t in range(0, count * LANES, LANES):
                        g = simd.load(gate, t)
                        simd.store(outputs, t, simd.load(outputs, t) * g * simd.sigmoid(g))
                _store_tile(outputs, y, row * length + time, length, rows, count, reverse)
            for n in range(size):
                for lane in range(rows):
                    last[(row + lane) * size + n] = h[n * LANES + lane]

    @numba.njit(nogil=True, cache=True)
    def backward(
        task, sizes, flags, u, dt, A, B, C, D, z, dt_bias, kept, dy, dlast,
        du, ddt, dA, dB, dC, dD, dz, dbias, dstate
    ):  # fmt: skip
        """One task of the backward pass: everything from du on is written.

        dA is (batch, channels, state) and dD, dbias are (batch, channels); dB and dC have one more
        leading axis of `parts`. The caller sums them.
        """
        batch, channels, length, size, groups, parts = sizes
        has_D, has_z, has_bias, soft, reverse, has_last, _ = flags
        entry, group, part = task // (groups * parts), task // parts % groups, task % parts
        width = channels // groups
        blocks = (width + LANES - 1) // LANES
        chunks = (length + CHUNK - 1) // CHUNK
        first, after = _range_of(part, parts, blocks)
        # carried from chunk to chunk, for each block of the task
        carry = np.zeros((after - first) * size * LANES, u.dtype)
        rate_sums = np.zeros((after - first) * size * LANES, u.dtype)
        skip_sums = np.zeros((after - first) * LANES, u.dtype)
        bias_sums = np.zeros((after - first) * LANES, u.dtype)
        # of one chunk
        B_sums = np.empty(size * CHUNK * _HALF, u.dtype)
        C_sums = np.empty(size * CHUNK * _HALF, u.dtype)
        # of one chunk and block
        lanes = np.empty(LANES, u.dtype)
        steps = np.empty(CHUNK * LANES, u.dtype)
        slopes = np.empty(CHUNK * LANES, u.dtype)
        signal = np.empty(CHUNK * LANES, u.dtype)
        inputs = np.empty(CHUNK * LANES, u.dtype)
        outputs = np.empty(CHUNK * LANES, u.dtype)
        upstream = np.empty(CHUNK * LANES, u.dtype)
        gate = np.empty(CHUNK * LANES, u.dtype)
        dinputs = np.empty(CHUNK * LANES, u.dtype)
        dsteps = np.empty(CHUNK * LANES, u.dtype)
        # of one chunk, block and state coordinate
        decays = np.empty(CHUNK * LANES, u.dtype)
        states = np.empty((CHUNK + 1) * LANES, u.dtype)
        for chunk in range(chunks - 1, -1, -1):
            begin = chunk * CHUNK
            count = min(CHUNK, length - begin)
            time = length - begin - count if reverse else begin
            B_sums[:] = 0.0
            C_sums[:] = 0.0
            for block in range(first, after):
                channel = group * width + block * LANES
                rows = min(LANES, width - block * LANES)
                row = entry * channels + channel
                bias = simd.zero_like(u)
                skip = simd.zero_like(u)
                if has_bias:
                    _load_lanes(dt_bias, channel, 1, rows, lanes, 0)
                    bias = simd.load(lanes, 0)
                if has_D:
                    _load_lanes(D, channel, 1, rows, lanes, 0)
                    skip = simd.load(lanes, 0)
                _load_tile(dt, row * length + time, length, rows, count, reverse, steps)
                _load_tile(u, row * length + time, length, rows, count, reverse, signal)
                _load_tile(dy, row * length + time, length, rows, count, reverse, upstream)
                if has_z:
                    _load_tile(z, row * length + time, length, rows, count, reverse, gate)
                for t in range(0, count * LANES, LANES):
                    delta = simd.load(steps, t) + bias
                    if soft:
                        simd.store(slopes, t, simd.sigmoid(delta))
                        delta = simd.softplus(delta)
                    x = simd.load(signal, t)
                    simd.store(steps, t, delta)
                    simd.store(outputs, t, skip * x)
                    simd.store(inputs, t, delta * x)
                    simd.store(dinputs, t, simd.zero_like(u))
                    simd.store(dsteps, t, simd.zero_like(u))
                    if has_z:  # keep dy in the gate's place: dz needs it once the outputs are known
                        g = simd.load(gate, t)
                        open_ = simd.sigmoid(g)
                        dout = simd.load(upstream, t)
                        simd.store(upstream, t, dout * g * open_)
                        simd.store(gate, t, dout * open_ * (1.0 + g * (1.0 - open_)))
                place = ((entry * groups + group) * blocks + block) * chunks + chunk
                for n in range(size):
                    _load_lanes(A, channel * size + n, size, rows, lanes, 0)
                    rate = simd.load(lanes, 0)
                    rate2 = rate * _LOG2E
                    s = simd.load(kept, (place * size + n) * LANES)
                    at = ((entry * groups + group) * size + n) * length + (length - 1 - begin if reverse else begin)
                    simd.store(states, 0, s)
                    for t in range(count):
                        decay = simd.exp2(simd.load(steps, t * LANES) * rate2)
                        simd.store(decays, t * LANES, decay)
                        if signed:
                            decay = decay + decay - 1.0
                        i = at - t if reverse else at + t
                        s = decay * s + simd.load(inputs, t * LANES) * simd.splat(B, i)
                        simd.store(states, (t + 1) * LANES, s)
                    if has_z:
                        for t in range(count):
                            i = at - t if reverse else at + t
                            s = simd.load(states, (t + 1) * LANES)
                            simd.store(outputs, t * LANES, simd.load(outputs, t * LANES) + s * simd.splat(C, i))
                    own = ((block - first) * size + n) * LANES
                    if has_last and chunk == chunks - 1:
                        _load_lanes(dlast, row * size + n, size, rows, carry, own)
                    g = simd.load(carry, own)
                    rate_sum = simd.load(rate_sums, own)
                    for t in range(count - 1, -1, -1):
                        i = at - t if reverse else at + t
                        dout = simd.load(upstream, t * LANES)
                        g = g + dout * simd.splat(C, i)
                        decay = simd.load(decays, t * LANES)
                        weight = g * simd.load(states, t * LANES) * decay
                        if signed:
                            weight = weight + weight
                            decay = decay + decay - 1.0
                        simd.add_halves(C_sums, (n * CHUNK + t) * _HALF, dout * simd.load(states, (t + 1) * LANES))
                        simd.add_halves(B_sums, (n * CHUNK + t) * _HALF, g * simd.load(inputs, t * LANES))
                        simd.store(dinputs, t * LANES, simd.load(dinputs, t * LANES) + g * simd.splat(B, i))
                        simd.store(dsteps, t * LANES, simd.load(dsteps, t * LANES) + weight * rate)
                        rate_sum = rate_sum + weight * simd.load(steps, t * LANES)
                        g = g * decay
                    simd.store(carry, own, g)
                    simd.store(rate_sums, own, rate_sum)
                own = (block - first) * LANES
                bias_sum = simd.load(bias_sums, own)
                skip_sum = simd.load(skip_sums, own)
                for t in range(0, count * LANES, LANES):
                    x = simd.load(signal, t)
                    dx = simd.load(dinputs, t)
                    dout = simd.load(upstream, t)
                    ddelta = simd.load(dsteps, t) + dx * x
                    if soft:
                        ddelta = ddelta * simd.load(slopes, t)
                    bias_sum = bias_sum + ddelta
                    skip_sum = skip_sum + dout * x
                    simd.store(dsteps, t, ddelta)
                    simd.store(dinputs, t, dx * simd.load(steps, t) + dout * skip)
                    if has_z:
                        simd.store(gate, t, simd.load(gate, t) * simd.load(outputs, t))
                simd.store(bias_sums, own, bias_sum)
                simd.store(skip_sums, own, skip_sum)
                _store_tile(dinputs, du, row * length + time, length, rows, count, reverse)
                _store_tile(dsteps, ddt, row * length + time, length, rows, count, reverse)
                if has_z:
                    _store_tile(gate, dz, row * length + time, length, rows, count, reverse)
            for n in range(size):
                at = (((part * batch + entry) * groups + group) * size + n) * length
                for t in range(count):
                    i = at + (length - 1 - begin - t if reverse else begin + t)
                    own = (n * CHUNK + t) * _HALF
                    B_sum, C_sum = B_sums[own], C_sums[own]
                    for lane in range(1, _HALF):
                        B_sum += B_sums[own + lane]
                        C_sum += C_sums[own + lane]
                    dB[i] = B_sum
                    dC[i] = C_sum
        for block in range(first, after):
            row = entry * channels + group * width + block * LANES
            for lane in range(min(LANES, width - block * LANES)):
                own = (block - first) * LANES + lane
                dD[row + lane] = skip_sums[own]
                dbias[row + lane] = bias_sums[own]
                for n in range(size):
                    own = ((block - first) * size + n) * LANES + lane
                    dA[(row + lane) * size + n] = rate_sums[own]
                    dstate[(row + lane) * size + n] = carry[own]

    return forward, backward


KERNELS = {"exp": make_kernels(False), "signed": make_kernels(True)}
