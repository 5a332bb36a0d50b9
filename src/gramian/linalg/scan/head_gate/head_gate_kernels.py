"""The compiled kernels of matrix states with one gate a head, forward and backward.

A task is one batch entry and some heads of one group (heads that read the same q and k). It goes through the chunks;
in each, q, k and the scores q kᵀ are made once for all of its heads. With a = cumulated gates of a chunk,

    M_ij = (q_i · k_j) exp(Σ_{j<m≤i} g_m),   Y = M V + diag(exp a) Q S,   S ← exp(a_end) S + Kᵀ diag(exp(a_end − a)) V,

where a_end − a is summed from the other side, so that no difference is ever formed. The forward kernel keeps the
states before each chunk; the backward kernel goes through the chunks from the last to the first.
"""

import math
import typing

import numpy as np

from gramian.linalg import simd
from gramian.linalg.kernels import numba
from gramian.linalg.scan.head_gate.tiles import (
    BELOW,
    FULL,
    LOWER,
    UPPER,
    load,
    multiply,
    row_products,
    save,
    scale_rows,
    transpose,
    wide,
)
from gramian.linalg.simd import LANES

_LOG2E = 1 / math.log(2)


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _gates(log_g, start, stride, rows, room, has_gate, gates, since, until):
    """Gates of a chunk; exp of their sums up to each token, and of their sums after it; exp of them all."""
    gates[:room] = 0.0
    if has_gate:
        for i in range(rows):
            gates[i] = log_g[start + i * stride]
    total = gates.dtype.type(0.0)
    for i in range(room):
        total += gates[i]
        since[i] = math.exp(total)
    after = gates.dtype.type(0.0)
    for i in range(room - 1, -1, -1):
        until[i] = math.exp(after)
        after += gates[i]
    return since[room - 1]


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _decays(gates, room, sums, decays):
    """decays[i, j] = exp(Σ_{j<m≤i} g_m) for j ≤ i, and 0 up to the end of the vector of the diagonal."""
    sums[:room] = 0.0
    for i in range(room):
        last = i // LANES * LANES
        for j in range(0, last + LANES, LANES):
            simd.store(sums, j, simd.load(sums, j) + simd.splat(gates, i))
        sums[i] = 0.0
        for j in range(0, last + LANES, LANES):
            simd.store(decays, i * room + j, simd.exp2(simd.load(sums, j) * _LOG2E))
        decays[i * room + i] = 1.0
        for j in range(i + 1, last + LANES):
            decays[i * room + j] = 0.0
            sums[j] = 0.0


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _times_lower(a, b, room, out):
    """Product a ∘ b up to the diagonal, 0 from there to the end of its vector."""
    for i in range(room):
        last = i // LANES * LANES + LANES
        for j in range(0, last, LANES):
            simd.store(out, i * room + j, simd.load(a, i * room + j) * simd.load(b, i * room + j))
        out[i * room + i + 1 : i * room + last] = 0.0  # set, not multiplied: 0 · NaN is NaN


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _place(task, sizes):
    """Batch entry, group, and first and last head of a task."""
    batch, groups, heads, parts = sizes[:4]
    entry, group, part = task // (groups * parts), task // parts % groups, task % parts
    width = heads // groups
    return entry, group, group * width + part * width // parts, group * width + (part + 1) * width // parts


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def forward(task, sizes, strides, flags, q, k, v, log_g, state, y, last, kept):
    """One task of the forward pass: y, last and kept are written."""
    batch, groups, heads, parts, length, key_size, value_size, chunk = sizes
    qs, ks, vs, gs = strides
    has_gate, keep = flags
    entry, group, head, after = _place(task, sizes)
    room, keys, values = wide(chunk), wide(key_size), wide(value_size)
    chunks = (length + chunk - 1) // chunk
    square = keys * values
    states = np.empty((after - head) * square, v.dtype)
    q_tile, k_tile, scaled = (np.empty(room * keys, v.dtype), np.empty(room * keys, v.dtype),
                              np.empty(room * keys, v.dtype))  # fmt: skip
    k_turned = np.empty(keys * room, v.dtype)
    v_tile, y_tile = np.empty(room * values, v.dtype), np.empty(room * values, v.dtype)
    scores, weights = np.zeros(room * room, v.dtype), np.zeros(room * room, v.dtype)
    gates, since, until, sums = (
        np.empty(room, v.dtype),
        np.empty(room, v.dtype),
        np.empty(room, v.dtype),
        np.empty(room, v.dtype),
    )
    for h in range(head, after):
        own = states[(h - head) * square : (h - head + 1) * square]
        load(state, (entry * heads + h) * key_size * value_size, value_size, key_size, value_size, own, keys)
    for c in range(chunks):
        start = c * chunk
        rows = min(chunk, length - start)
        load(q, entry * qs[0] + group * qs[1] + start * qs[2], qs[2], rows, key_size, q_tile, room)
        load(k, entry * ks[0] + group * ks[1] + start * ks[2], ks[2], rows, key_size, k_tile, room)
        transpose(k_tile, 0, room, keys, k_turned)
        multiply(scores, 0, q_tile, keys, 1, k_turned, 0, room, keys, room, BELOW, False)
        for h in range(head, after):
            place = (h - head) * square
            own = states[place : place + square]
            load(v, entry * vs[0] + h * vs[1] + start * vs[2], vs[2], rows, value_size, v_tile, room)
            all_of_it = _gates(
                log_g, entry * gs[0] + h * gs[1] + start * gs[2], gs[2], rows, room, has_gate, gates, since, until
            )
            _decays(gates, room, sums, weights)
            _times_lower(weights, scores, room, weights)
            multiply(y_tile, 0, weights, room, 1, v_tile, 0, room, room, values, LOWER, False)
            scale_rows(q_tile, 0, since, room, keys, scaled)
            multiply(y_tile, 0, scaled, keys, 1, states, place, room, keys, values, FULL, True)
            save(y_tile, y, ((entry * length + start) * heads + h) * value_size, heads * value_size, rows, value_size)
            if keep:
                target = ((entry * heads + h) * chunks + c) * key_size * value_size
                save(own, kept, target, value_size, key_size, value_size)
            own *= all_of_it
            scale_rows(k_tile, 0, until, room, keys, scaled)
            multiply(states, place, scaled, 1, keys, v_tile, 0, keys, room, values, FULL, True)
    for h in range(head, after):
        own = states[(h - head) * square : (h - head + 1) * square]
        save(own, last, (entry * heads + h) * key_size * value_size, value_size, key_size, value_size)


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def _gate_slopes(slopes, weights, rows, room, sums, from_since, from_until, from_all, out, start, stride):
    """Gradient of each gate: of every pair, every read and every write that it stands between, and of what is kept."""
    for i in range(room):  # sums[j] will hold Σ_{i ≥ t} slopes[i, j] weights[i, j]
        sums[i] = 0.0
    reads = out.dtype.type(0.0)
    for i in range(rows - 1, -1, -1):
        width = i // LANES * LANES + LANES
        for j in range(0, width, LANES):
            pairs = simd.load(slopes, i * room + j) * simd.load(weights, i * room + j)
            simd.store(sums, j, simd.load(sums, j) + pairs)
        reads += from_since[i]
        total = reads + from_all
        for j in range(i):
            total += sums[j]
        out[start + i * stride] = total
    writes = out.dtype.type(0.0)
    for i in range(rows):
        out[start + i * stride] += writes
        writes += from_until[i]


@typing.no_type_check
@numba.njit(nogil=True, cache=True)
def backward(task, sizes, strides, flags, q, k, v, log_g, kept, dy, dlast, dq, dk, dv, dlog_g, dstate):
    """One task of the backward pass: its slice of dq and dk, and its heads of dv, dlog_g and dstate."""
    batch, groups, heads, parts, length, key_size, value_size, chunk = sizes
    qs, ks, vs, gs = strides
    has_gate, has_last = flags
    entry, group, head, after = _place(task, sizes)
    room, keys, values = wide(chunk), wide(key_size), wide(value_size)
    chunks = (length + chunk - 1) // chunk
    square = keys * values
    dtype = v.dtype
    slopes = np.zeros((after - head) * square, dtype)  # of the state after the chunk
    q_tile, k_tile = np.empty(room * keys, dtype), np.empty(room * keys, dtype)
    dq_tile, dk_tile = np.empty(room * keys, dtype), np.empty(room * keys, dtype)
    scaled, product = np.empty(room * keys, dtype), np.empty(room * keys, dtype)
    k_turned, turned = np.empty(keys * room, dtype), np.empty(square, dtype)
    state = np.empty(square, dtype)
    v_tile, dy_tile, out = (
        np.empty(room * values, dtype),
        np.empty(room * values, dtype),
        np.empty(room * values, dtype),
    )
    v_turned = np.empty(values * room, dtype)
    scores, decays = np.zeros(room * room, dtype), np.zeros(room * room, dtype)
    weights, dweights, dscores = (
        np.zeros(room * room, dtype),
        np.zeros(room * room, dtype),
        np.zeros(room * room, dtype),
    )
    gates, since, until, sums = (
        np.empty(room, dtype),
        np.empty(room, dtype),
        np.empty(room, dtype),
        np.empty(room, dtype),
    )
    from_since, from_until = np.empty(room, dtype), np.empty(room, dtype)
    if has_last:
        for h in range(head, after):
            own = slopes[(h - head) * square : (h - head + 1) * square]
            load(dlast, (entry * heads + h) * key_size * value_size, value_size, key_size, value_size, own, keys)
    for c in range(chunks - 1, -1, -1):
        start = c * chunk
        rows = min(chunk, length - start)
        load(q, entry * qs[0] + group * qs[1] + start * qs[2], qs[2], rows, key_size, q_tile, room)
        load(k, entry * ks[0] + group * ks[1] + start * ks[2], ks[2], rows, key_size, k_tile, room)
        transpose(k_tile, 0, room, keys, k_turned)
        multiply(scores, 0, q_tile, keys, 1, k_turned, 0, room, keys, room, BELOW, False)
        dscores[:] = 0.0
        dq_tile[:] = 0.0
        dk_tile[:] = 0.0
        for h in range(head, after):
            place = (h - head) * square
            load(v, entry * vs[0] + h * vs[1] + start * vs[2], vs[2], rows, value_size, v_tile, room)
            here = ((entry * length + start) * heads + h) * value_size
            load(dy, here, heads * value_size, rows, value_size, dy_tile, room)
            source = ((entry * heads + h) * chunks + c) * key_size * value_size
            load(kept, source, value_size, key_size, value_size, state, keys)
            gate = entry * gs[0] + h * gs[1] + start * gs[2]
            all_of_it = _gates(log_g, gate, gs[2], rows, room, has_gate, gates, since, until)
            _decays(gates, room, sums, decays)
            _times_lower(decays, scores, room, weights)
            # what was written: v_j exp(until) against the slopes of the state
            multiply(out, 0, weights, 1, room, dy_tile, 0, room, room, values, UPPER, False)
            scale_rows(k_tile, 0, until, room, keys, scaled)
            multiply(out, 0, scaled, keys, 1, slopes, place, room, keys, values, FULL, True)
            save(out, dv, here, heads * value_size, rows, value_size)
            scale_rows(v_tile, 0, until, room, values, out)
            transpose(slopes, place, keys, values, turned)
            multiply(product, 0, out, values, 1, turned, 0, room, values, keys, FULL, False)
            row_products(product, k_tile, room, keys, from_until)
            dk_tile += product
            # what was read: q_i exp(since) from the state
            from_all = dtype.type(0.0)
            for i in range(square):
                from_all += state[i] * slopes[place + i]
            scale_rows(dy_tile, 0, since, room, values, out)
            transpose(state, 0, keys, values, turned)
            multiply(product, 0, out, values, 1, turned, 0, room, values, keys, FULL, False)
            row_products(product, q_tile, room, keys, from_since)
            dq_tile += product
            slopes[place : place + square] *= all_of_it
            multiply(slopes, place, q_tile, 1, keys, out, 0, keys, room, values, FULL, True)
            # what the tokens of the chunk read of each other
            transpose(v_tile, 0, room, values, v_turned)
            multiply(dweights, 0, dy_tile, values, 1, v_turned, 0, room, values, room, BELOW, False)
            if has_gate:
                _gate_slopes(
                    dweights, weights, rows, room, sums, from_since, from_until, from_all * all_of_it,
                    dlog_g, (entry * heads + h) * length + start, 1,
                )  # fmt: skip
            _times_lower(decays, dweights, room, weights)
            for i in range(room):
                for j in range(0, i // LANES * LANES + LANES, LANES):
                    at = i * room + j
                    simd.store(dscores, at, simd.load(dscores, at) + simd.load(weights, at))
        multiply(dq_tile, 0, dscores, room, 1, k_tile, 0, room, room, keys, LOWER, True)
        multiply(dk_tile, 0, dscores, 1, room, q_tile, 0, room, room, keys, UPPER, True)
        part = task % parts
        target = ((part * batch + entry) * groups + group) * length + start
        save(dq_tile, dq, target * key_size, key_size, rows, key_size)
        save(dk_tile, dk, target * key_size, key_size, rows, key_size)
    for h in range(head, after):
        own = slopes[(h - head) * square : (h - head + 1) * square]
        save(own, dstate, (entry * heads + h) * key_size * value_size, value_size, key_size, value_size)
