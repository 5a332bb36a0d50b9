"""Compiled Cauchy sums, the spectrum made of them, and gradients; `gramian.linalg.scan.dplr` is their public face."""

import typing

import numpy as np

from gramian.linalg.kernels import numba, warmup

_FAST = {"reassoc", "contract", "arcp"}  # sums may be reordered into vectors; NaN and infinity survive
_BLOCK = 128  # frequencies at a time: eight running sums of this length stay in the first-level cache


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
@typing.no_type_check
def _sums(weights, eigenvalues, step, sines, cosines, out):
    """Four sums of one channel at every frequency, into out (8, frequencies): real part, imaginary part, real part, …

    With x = −dt c Re λ, y = 2s ∓ dt c Im λ and r = 1/(x² + y²), a pole and its conjugate partner together are four
    real numbers; each sum takes two multiply-adds of them.
    """
    states, count = eigenvalues.shape[0], sines.shape[0]
    sums = np.empty((8, _BLOCK))
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        sums[:] = 0.0
        for n in range(states):
            real, imaginary = step * eigenvalues[n, 0], step * eigenvalues[n, 1]
            p0, q0 = weights[0, n, 0], weights[0, n, 1]
            p1, q1 = weights[1, n, 0], weights[1, n, 1]
            p2, q2 = weights[2, n, 0], weights[2, n, 1]
            p3, q3 = weights[3, n, 0], weights[3, n, 1]
            for k in range(size):
                s, c = 2 * sines[start + k], cosines[start + k]
                x, y1, y2 = -c * real, s - c * imaginary, s + c * imaginary
                r1, r2 = 1 / (x * x + y1 * y1), 1 / (x * x + y2 * y2)
                alpha, gamma = x * (r1 + r2), x * (r1 - r2)
                beta, delta = y1 * r1 - y2 * r2, y1 * r1 + y2 * r2
                sums[0, k] += p0 * alpha + q0 * beta
                sums[1, k] += q0 * gamma - p0 * delta
                sums[2, k] += p1 * alpha + q1 * beta
                sums[3, k] += q1 * gamma - p1 * delta
                sums[4, k] += p2 * alpha + q2 * beta
                sums[5, k] += q2 * gamma - p2 * delta
                sums[6, k] += p3 * alpha + q3 * beta
                sums[7, k] += q3 * gamma - p3 * delta
        out[:, start : start + size] = sums[:, :size]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
@typing.no_type_check
def _sums_backward(weights, eigenvalues, step, sines, cosines, outer, grad_weights, grad_eigenvalues):
    """Gradients of one channel's sums, given theirs as outer (8, frequencies); returns the step's.

    Everything is recomputed, nothing of size states × frequencies is stored.
    """
    states, count = eigenvalues.shape[0], sines.shape[0]
    total = 0.0
    for n in range(states):
        real, imaginary = step * eigenvalues[n, 0], step * eigenvalues[n, 1]
        p0, q0 = weights[0, n, 0], weights[0, n, 1]
        p1, q1 = weights[1, n, 0], weights[1, n, 1]
        p2, q2 = weights[2, n, 0], weights[2, n, 1]
        p3, q3 = weights[3, n, 0], weights[3, n, 1]
        dp0 = dq0 = dp1 = dq1 = dp2 = dq2 = dp3 = dq3 = d_real = d_imaginary = 0.0
        for k in range(count):
            s, c = 2 * sines[k], cosines[k]
            x, y1, y2 = -c * real, s - c * imaginary, s + c * imaginary
            r1, r2 = 1 / (x * x + y1 * y1), 1 / (x * x + y2 * y2)
            alpha, gamma = x * (r1 + r2), x * (r1 - r2)
            beta, delta = y1 * r1 - y2 * r2, y1 * r1 + y2 * r2
            g0, h0, g1, h1 = outer[0, k], outer[1, k], outer[2, k], outer[3, k]
            g2, h2, g3, h3 = outer[4, k], outer[5, k], outer[6, k], outer[7, k]
            dp0 += g0 * alpha - h0 * delta
            dq0 += g0 * beta + h0 * gamma
            dp1 += g1 * alpha - h1 * delta
            dq1 += g1 * beta + h1 * gamma
            dp2 += g2 * alpha - h2 * delta
            dq2 += g2 * beta + h2 * gamma
            dp3 += g3 * alpha - h3 * delta
            dq3 += g3 * beta + h3 * gamma
            d_alpha = g0 * p0 + g1 * p1 + g2 * p2 + g3 * p3
            d_beta = g0 * q0 + g1 * q1 + g2 * q2 + g3 * q3
            d_gamma = h0 * q0 + h1 * q1 + h2 * q2 + h3 * q3
            d_delta = -(h0 * p0 + h1 * p1 + h2 * p2 + h3 * p3)
            # of x rᵢ and yᵢ rᵢ: ∂(x r)/∂x = (y² − x²) r², ∂(x r)/∂y = ∂(y r)/∂x = −2xy r²
            even1, odd1 = (y1 * y1 - x * x) * r1 * r1, -2 * x * y1 * r1 * r1
            even2, odd2 = (y2 * y2 - x * x) * r2 * r2, -2 * x * y2 * r2 * r2
            gx1, gx2, gy1, gy2 = d_alpha + d_gamma, d_alpha - d_gamma, d_beta + d_delta, d_delta - d_beta
            d_x = gx1 * even1 + gy1 * odd1 + gx2 * even2 + gy2 * odd2
            d_y1, d_y2 = gx1 * odd1 - gy1 * even1, gx2 * odd2 - gy2 * even2
            d_real -= c * d_x
            d_imaginary += c * (d_y2 - d_y1)
        grad_weights[0, n, 0], grad_weights[0, n, 1] = dp0, dq0
        grad_weights[1, n, 0], grad_weights[1, n, 1] = dp1, dq1
        grad_weights[2, n, 0], grad_weights[2, n, 1] = dp2, dq2
        grad_weights[3, n, 0], grad_weights[3, n, 1] = dp3, dq3
        grad_eigenvalues[n, 0], grad_eigenvalues[n, 1] = step * d_real, step * d_imaginary
        total += eigenvalues[n, 0] * d_real + eigenvalues[n, 1] * d_imaginary
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
@typing.no_type_check
def cauchy_forward(channel, weights, eigenvalues, dt, sines, cosines, out):
    """The four sums of one channel, as complex numbers (4, frequencies, 2)."""
    sums = np.empty((8, sines.shape[0]))
    _sums(weights[channel], eigenvalues[channel], dt[channel], sines, cosines, sums)
    for j in range(8):
        out[channel, j // 2, :, j % 2] = sums[j]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
@typing.no_type_check
def cauchy_backward(channel, weights, eigenvalues, dt, sines, cosines, grad, grad_weights, grad_eigenvalues, grad_dt):
    """Gradients of `cauchy_forward`."""
    outer = np.empty((8, sines.shape[0]))  # the outputs' gradient with frequencies contiguous
    for j in range(8):
        outer[j] = grad[channel, j // 2, :, j % 2]
    grad_dt[channel] = _sums_backward(
        weights[channel], eigenvalues[channel], dt[channel], sines, cosines, outer,
        grad_weights[channel], grad_eigenvalues[channel],
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def spectrum_forward(channel, weights, eigenvalues, dt, sines, cosines, out):
    """A channel's spectrum dt e^{iθ/2} (k₀ − a k₁ k₂/(1 + a k₃)), a = dt cos θ/2; its four sums k are not kept."""
    step, count = dt[channel], sines.shape[0]
    sums = np.empty((8, count))
    _sums(weights[channel], eigenvalues[channel], step, sines, cosines, sums)
    for k in range(count):
        a = step * cosines[k]
        product = complex(sums[2, k], sums[3, k]) * complex(sums[4, k], sums[5, k])
        value = complex(sums[0, k], sums[1, k]) - a * product / (1 + a * complex(sums[6, k], sums[7, k]))
        value *= step * complex(cosines[k], sines[k])
        out[channel, k, 0], out[channel, k, 1] = value.real, value.imag


@numba.njit(nogil=True, cache=True)
@typing.no_type_check
def spectrum_backward(channel, weights, eigenvalues, dt, sines, cosines, grad, grad_weights, grad_eigenvalues, grad_dt):
    """Gradients of `spectrum_forward`: the sums are computed anew, and their gradients take their place."""
    step, count, total = dt[channel], sines.shape[0], 0.0
    sums = np.empty((8, count))
    _sums(weights[channel], eigenvalues[channel], step, sines, cosines, sums)
    for k in range(count):
        a, turn = step * cosines[k], complex(cosines[k], sines[k])
        k1, k2 = complex(sums[2, k], sums[3, k]), complex(sums[4, k], sums[5, k])
        below = 1 + a * complex(sums[6, k], sums[7, k])
        ratio = k1 * k2 / below
        outer = complex(grad[channel, k, 0], grad[channel, k, 1])
        # ∂/∂dt of dt (k₀ − a ratio): the last term is dt ∂(a ratio)/∂dt = a ratio/(1 + a k₃)
        by_step = turn * (complex(sums[0, k], sums[1, k]) - a * ratio - a * ratio / below)
        total += (by_step.conjugate() * outer).real
        inner = (step * turn).conjugate() * outer
        g1, g2 = (-a * k2 / below).conjugate() * inner, (-a * k1 / below).conjugate() * inner
        g3 = (a * a * ratio / below).conjugate() * inner
        sums[0, k], sums[1, k], sums[2, k], sums[3, k] = inner.real, inner.imag, g1.real, g1.imag
        sums[4, k], sums[5, k], sums[6, k], sums[7, k] = g2.real, g2.imag, g3.real, g3.imag
    grad_dt[channel] = total + _sums_backward(
        weights[channel], eigenvalues[channel], step, sines, cosines, sums,
        grad_weights[channel], grad_eigenvalues[channel],
    )  # fmt: skip


@warmup
def _compile() -> None:
    weights, eigenvalues, dt = np.ones((1, 4, 1, 2)), np.ones((1, 1, 2)), np.ones(1)
    sines, cosines, sums, spectrum = np.zeros(1), np.ones(1), np.ones((1, 4, 1, 2)), np.ones((1, 1, 2))
    gradients = (np.ones_like(weights), np.ones_like(eigenvalues), np.ones_like(dt))
    given = (0, weights, eigenvalues, dt, sines, cosines)
    cauchy_forward(*given, sums)
    cauchy_backward(*given, sums, *gradients)
    spectrum_forward(*given, spectrum)
    spectrum_backward(*given, spectrum, *gradients)
