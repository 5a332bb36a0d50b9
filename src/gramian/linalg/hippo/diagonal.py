"""Diagonal state matrices to start from, and the normal-plus-low-rank form of LegS."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor

from gramian.linalg.hippo.measures import transition

DIAGONAL_INITS = ("legs", "inv", "lin", "real")


def _check_even(state_size: int) -> None:
    if state_size < 2 or state_size % 2:
        raise ValueError(
            f"state_size={state_size} must be even and at least 2: the eigenvalues come in conjugate pairs "
            f"and one of each is kept; use {state_size + 1 if state_size > 0 else 2}, or init='real'"
        )


def legs_normal_plus_low_rank(
    state_size: int,
) -> tuple[
    Complex[Tensor, " half"], Complex[Tensor, "states half"], Complex[Tensor, " half"], Complex[Tensor, " half"]
]:
    """LegS as a normal matrix minus a rank-one one: A = N − P Pᵀ, N = V diag(Λ) V*.

    P = √(n + 1/2) makes N = A + P Pᵀ equal to −I/2 plus a skew-symmetric matrix, so V is unitary and
    Re Λ = −1/2 exactly. Of each conjugate pair the member with a positive imaginary part is kept,
    ascending.

    Returns:
        Λ (state_size/2), V (state_size, state_size/2), V*P and V*B, in complex128. The other half are
        their complex conjugates.

    Raises:
        ValueError: an odd state_size.

    Source: Gu et al., "Efficiently Modeling Long Sequences with Structured State Spaces" (arXiv
    2111.00396), appendix C.
    """
    _check_even(state_size)
    A, B = transition("legs", state_size)
    P = torch.sqrt(torch.arange(state_size, dtype=torch.float64) + 0.5)
    normal = A + P[:, None] * P[None, :]
    skew = (normal - normal.T) / 2
    # a Hermitian eigenproblem: eigenvectors are orthonormal to machine precision, which eig would not give
    frequencies, V = torch.linalg.eigh(-1j * skew)
    frequencies, V = frequencies[state_size // 2 :], V[:, state_size // 2 :]
    eigenvalues = torch.complex(torch.full_like(frequencies, -0.5), frequencies)
    conjugate = V.conj().T
    return eigenvalues, V, conjugate @ P.to(V.dtype), conjugate @ B.to(V.dtype)


def legs_diagonal(state_size: int) -> tuple[Complex[Tensor, " half"], Complex[Tensor, " half"]]:
    """S4D-LegS: the eigenvalues of the normal part of LegS, and its input vector B/2 in that basis.

    As state_size grows the diagonal system's impulse responses tend to those of LegS at every fixed
    frequency (not uniformly over all frequencies).

    Returns:
        A and B of state_size/2 entries, one of each conjugate pair: y = 2 Re Σ C x.

    Raises:
        ValueError: an odd state_size.

    Source: Gu et al. (arXiv 2206.11893), theorem 3.

    >>> A, B = legs_diagonal(4)
    >>> A.real.tolist()
    [-0.5, -0.5]
    """
    eigenvalues, _, _, B = legs_normal_plus_low_rank(state_size)
    return eigenvalues, B / 2


def inverse_diagonal(state_size: int) -> Complex[Tensor, " half"]:
    """S4D-Inv: Aₙ = −1/2 + i (N/π)(N/(2n+1) − 1), n < N/2, close to the spectrum of LegS's normal part.

    Raises:
        ValueError: an odd state_size.
    """
    _check_even(state_size)
    n = torch.arange(state_size // 2, dtype=torch.float64)
    imaginary = state_size / math.pi * (state_size / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), imaginary)


def linear_diagonal(state_size: int) -> Complex[Tensor, " half"]:
    """S4D-Lin: Aₙ = −1/2 + iπn, n < N/2, close to the spectrum of FouT.

    Raises:
        ValueError: an odd state_size.
    """
    _check_even(state_size)
    n = torch.arange(state_size // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def real_diagonal(state_size: int) -> Float[Tensor, " states"]:
    """S4D-Real: Aₙ = −(n + 1), the eigenvalues of LegS itself, all real.

    Raises:
        ValueError: state_size < 1.
    """
    if state_size < 1:
        raise ValueError(f"state_size={state_size} must be at least 1")
    return -torch.arange(1, state_size + 1, dtype=torch.float64)


def diagonal_init(
    init: str, state_size: int
) -> tuple[Inexact[Tensor, " kept"], Inexact[Tensor, " kept"], Float[Tensor, " kept"]]:
    """A diagonal start by name: A, B and the multiplicity of every kept eigenvalue.

    The output is y = Re Σ multiplicity · C x: 2 where a conjugate partner was dropped, 1 for ``real``.
    B is ones except for ``legs``, whose B comes with its eigenvectors. A and B are real for ``real``,
    else complex.

    Raises:
        ValueError: an unknown init, or an odd state_size where conjugate pairs are needed.
    """
    if init == "legs":
        A, B = legs_diagonal(state_size)
    elif init == "inv":
        A = inverse_diagonal(state_size)
        B = torch.ones_like(A)
    elif init == "lin":
        A = linear_diagonal(state_size)
        B = torch.ones_like(A)
    elif init == "real":
        A = real_diagonal(state_size)
        B = torch.ones_like(A)
    else:
        raise ValueError(f"init={init!r} is unknown; choose one of {', '.join(DIAGONAL_INITS)}")
    multiplicity = torch.full(A.shape, 1.0 if init == "real" else 2.0, dtype=torch.float64)
    return A, B, multiplicity


def conjugate_half(
    eigenvalues: Complex[Tensor, " states"],
) -> tuple[Int[Tensor, " kept"], Float[Tensor, " kept"]]:
    """Which eigenvalues of a real matrix to keep, and how often each counts.

    Of each conjugate pair the member with the positive imaginary part is kept and counts twice; real
    eigenvalues are kept and count once: Σ f(λ) over all = Re Σ multiplicity · f(λ) over the kept, for
    every f with f(λ̄) = conj f(λ).

    Raises:
        ValueError: eigenvalues that are not closed under conjugation (not those of a real matrix).
    """
    imaginary = eigenvalues.imag
    scale = eigenvalues.abs().max().clamp_min(torch.finfo(imaginary.dtype).tiny)
    real = imaginary.abs() <= 1e3 * torch.finfo(imaginary.dtype).eps * scale
    upper, lower = (imaginary > 0) & ~real, (imaginary < 0) & ~real
    if int(upper.sum()) != int(lower.sum()):
        raise ValueError("the eigenvalues do not come in conjugate pairs: they are not those of a real matrix")
    kept = torch.nonzero(upper | real).flatten()
    return kept, torch.where(real[kept], 1.0, 2.0).to(imaginary.dtype)
