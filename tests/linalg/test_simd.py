"""Vectors in kernels against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg import simd
from gramian.linalg.kernels import numba

BOUNDS = {np.float32: 3e-7, np.float64: 2e-15}


@numba.njit
def elementwise(x, powers, pluses, sigmoids):
    for i in range(0, x.size, simd.LANES):
        v = simd.load(x, i)
        simd.store(powers, i, simd.exp2(v))
        simd.store(pluses, i, simd.softplus(v))
        simd.store(sigmoids, i, simd.sigmoid(v))


@numba.njit
def arithmetic(x, y, out, halves):
    a, b = simd.load(x, 0), simd.load(y, 0)
    c = (a + b) * a - b / 2.0
    c += simd.splat(x, 3) * 3.0
    simd.store(out, 0, 1.0 - c + simd.zero_like(x))
    simd.add_halves(halves, 0, a)


@numba.njit
def transpose(source, target, stride):
    simd.transpose8(source, 0, 8, target, 0 if stride > 0 else 56, stride)


def run(x):
    out = [np.empty_like(x) for _ in range(3)]
    elementwise(x, *out)
    return out


@pytest.mark.parametrize("dtype", BOUNDS)
def test_functions_are_accurate(dtype):
    x = np.linspace(-80, 80, 16 * 1000).astype(dtype)
    exact = x.astype(np.longdouble)
    references = np.exp2(exact), np.logaddexp(0, exact), 1 / (1 + np.exp(-exact))
    for found, reference, slack in zip(run(x), references, (1, 100, 100), strict=True):
        # softplus and sigmoid scale their argument by log2(e) in working precision: the error grows with |x|
        assert np.abs(found / reference - 1).max() < slack * BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_exp2_is_precise_near_zero(dtype):
    """Slow decays are raised to high powers: what counts is 2^x − 1."""
    x = (np.logspace(-8, -3, 16) * -1).astype(dtype)
    assert np.abs(run(x)[0] - np.exp2(x.astype(np.longdouble))).max() <= np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", BOUNDS)
def test_special_values(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 2000, -2000, 1, 2, 3, 4, 5, 6, 7, 8, 9], dtype)
    power, plus, sigmoid = run(x)
    assert np.isnan([power[0], plus[0], sigmoid[0]]).all()
    assert [power[1], plus[1], sigmoid[1]] == [np.inf, np.inf, 1]
    assert [power[2], plus[2], sigmoid[2]] == [0, 0, 0]
    assert [power[3], power[4], power[5], power[6]] == [1, 1, np.inf, 0]
    assert (power[7:] == 2.0 ** np.arange(1, 10)).all()


@given(st.lists(st.floats(-1e3, 1e3), min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_arithmetic(values):
    x, y = np.array(values[:16]), np.array(values[16:])
    out, halves = np.empty(16), np.ones(8)
    arithmetic(x, y, out, halves)
    np.testing.assert_allclose(out, 1 - ((x + y) * x - y / 2 + x[3] * 3), rtol=1e-12, atol=1e-8)
    np.testing.assert_allclose(halves, 1 + x[:8] + x[8:], atol=1e-9)  # the order of additions is the kernel's


def test_transposition_forwards_and_mirrored():
    source, target = np.arange(64.0), np.empty(64)
    transpose(source, target, 8)
    assert (target.reshape(8, 8) == source.reshape(8, 8).T).all()
    transpose(source, target, -8)
    assert (target.reshape(8, 8) == source.reshape(8, 8).T[::-1]).all()
