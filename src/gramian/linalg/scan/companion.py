"""Companion systems: a shift with one full column, whose kernel is a quotient of polynomials."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = [
    "companion_kernel",
    "companion_matrix",
    "companion_step",
    "krylov",
    "l1_normalized",
    "reciprocal_series",
]


def l1_normalized(a: Float[Tensor, "*batch states"]) -> Float[Tensor, "*batch states"]:
    """A / |a|₁, and a itself where it is almost zero: a companion matrix of it has no eigenvalue outside the circle."""
    size = a.abs().sum(-1, keepdim=True)
    return a / torch.where(size > 1e-4, size, torch.ones_like(size))


def companion_matrix(a: Float[Tensor, "*batch states"]) -> Float[Tensor, "*batch states states"]:
    """Ones under the diagonal, and `a` as the last column.

    >>> companion_matrix(torch.tensor([5.0, 6.0, 7.0]))
    tensor([[0., 0., 5.],
            [1., 0., 6.],
            [0., 1., 7.]])
    """
    states = a.shape[-1]
    shift = torch.eye(states, dtype=a.dtype, device=a.device).roll(1, 0)
    shift[0, -1] = 0
    last = torch.zeros(states, dtype=a.dtype, device=a.device)
    last[-1] = 1
    return shift + a[..., :, None] * last


def _product(x: Tensor, y: Tensor, length: int) -> Tensor:
    """The first `length` coefficients of a product of polynomials, lowest first."""
    x, y = x[..., :length], y[..., :length]
    size = next_fast_len(x.shape[-1] + y.shape[-1] - 1, real=True)
    found = torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(y, n=size), n=size)[..., :length]
    return found if found.shape[-1] == length else torch.nn.functional.pad(found, (0, length - found.shape[-1]))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Σᵢ x_{i+k} yᵢ for k = 0 … d − 1."""
    size = next_fast_len(2 * x.shape[-1] - 1, real=True)
    return torch.fft.irfft(torch.fft.rfft(x, n=size) * torch.fft.rfft(y, n=size).conj(), n=size)[..., : x.shape[-1]]


def reciprocal_series(polynomial: Float[Tensor, "*batch terms"], length: int) -> Float[Tensor, "*batch {length}"]:
    """The first `length` coefficients of 1/p(z), where p(0) = 1, by Newton's iteration: O(length log length).

    Each step g ← g (2 − p g) doubles the number of right coefficients.

    >>> reciprocal_series(torch.tensor([1.0, -0.5]), 4)  # a geometric series
    tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """
    known = 1
    found = torch.ones_like(polynomial[..., :1])
    while known < length:
        known = min(2 * known, length)
        rest = -_product(polynomial, found, known)
        rest = torch.cat((rest[..., :1] + 2, rest[..., 1:]), -1)
        found = _product(found, rest, known)
    return found


def companion_kernel(
    a: Float[Tensor, "channels states"],
    b: Float[Tensor, "channels states"],
    c: Float[Tensor, "channels states"],
    length: int,
) -> Float[Tensor, "channels {length}"]:
    r"""\(K_l = c^\top A^l b\) for l = 0 … length − 1 and the companion matrix A of `a`, in O((states + length) log).

    With \(\langle u, v\rangle(z) = \sum_k z^k \sum_i u_{i+k} v_i\), the kernel's generating function is

    \[ \langle c, b\rangle + z\,\frac{\langle c, a\rangle \langle e_d, b\rangle}{1 - z \langle e_d, a\rangle}, \]

    the resolvent of a shift with a rank-one change. The quotient is expanded as a power series, so that no power of A
    is formed and no eigenvalue of A is special.

    Returns:
        the dtype of the inputs; computed in float64.

    Raises:
        ValueError: length < 1, a system without states, or NaN.

    Source: Zhang et al. (arXiv 2303.09489), proposition 2 and algorithm 1, whose resolvent this expands.
    """
    if length < 1 or a.shape[-1] < 1:
        raise ValueError(f"{length=} and {a.shape[-1]} states must both be at least 1")
    if not bool(torch.isfinite(a.detach()).all()):
        raise ValueError("the companion column holds NaN or infinity")
    dtype = torch.promote_types(a.dtype, torch.promote_types(b.dtype, c.dtype))
    a, b, c = (t.to(torch.float64) for t in (a, b, c))
    one = torch.ones_like(a[..., :1])
    denominator = torch.cat((one, -a.flip(-1)), -1)
    direct = _product(_correlation(c, b), one, length)
    if length == 1:
        return direct.to(dtype)
    through = _product(_correlation(c, a), b.flip(-1), length - 1)
    looped = _product(through, reciprocal_series(denominator, length - 1), length - 1)
    return torch.cat((direct[..., :1], direct[..., 1:] + looped), -1).to(dtype)


def krylov(
    matrix: Float[Tensor, "*batch states states"], vector: Float[Tensor, "*batch states"], length: int
) -> Float[Tensor, "*batch {length} states"]:
    """The vectors v, M v, …, M^{length − 1} v as rows, by repeated squaring.

    Raises:
        ValueError: length < 1.
    """
    if length < 1:
        raise ValueError(f"length={length} must be at least 1")
    found, power = vector[..., None, :], matrix
    while found.shape[-2] < length:
        found = torch.cat((found, found @ power.mT), -2)
        if found.shape[-2] < length:
            power = power @ power
    return found[..., :length, :]


def companion_step(
    state: Float[Tensor, "batch channels states"],
    u: Float[Tensor, "batch channels"],
    a: Float[Tensor, "channels states"],
    b: Float[Tensor, "channels states"],
) -> Float[Tensor, "batch channels states"]:
    """One input: x ← A x + b u, with the shift as a shift."""
    return torch.nn.functional.pad(state[..., :-1], (1, 0)) + a * state[..., -1:] + b * u[..., None]
