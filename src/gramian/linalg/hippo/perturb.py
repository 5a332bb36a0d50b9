"""Perturb, then diagonalize: a diagonalization that survives floating point.

A HiPPO matrix is so far from normal that its eigenvectors are numerically dependent (condition number
above 1e19 at 32 states). A + E with a small E has well-conditioned eigenvectors, and diagonalizing A + E
is backward stable: it solves a problem that is close to the given one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_CLIFF = 0.02  # a rise of log ‖V‖‖V⁻¹‖ above the best by more than this is taken back


class UnstableSpectrumWarning(UserWarning):
    """Some of the candidate perturbations pushed an eigenvalue into the right half plane."""


@dataclass(frozen=True)
class Diagonalization:
    """A + E = V diag(w) V⁻¹.

    Attributes:
        w: eigenvalues.
        V: eigenvectors as columns, each of unit length.
        E: the perturbation, real where A is.
        report: ``condition`` (of V, spectral norm), ``perturbation`` (‖E‖₂), ``residual``
            (‖V diag(w) V⁻¹ − (A+E)‖₂ / ‖A‖₂), ``abscissa`` (largest real part of w), ``start_condition``
            (the same for each random candidate) and ``history`` (log ‖V‖_F‖V⁻¹‖_F by step, the best so far).
    """

    w: Complex[Tensor, " states"]
    V: Complex[Tensor, "states states"]
    E: Float[Tensor, "states states"] | Complex[Tensor, "states states"]
    report: dict[str, Any] = field(default_factory=dict)

    def to_modal(self, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """Input and output maps in the eigenbasis: V⁻¹ B for B (states, …), and C V for C (…, states)."""
        return torch.linalg.solve(self.V, B.to(self.V.dtype)), C.to(self.V.dtype) @ self.V


def condition_number(V: Complex[Tensor, "states states"]) -> float:
    """The spectral condition number of V: largest over smallest singular value (inf if singular)."""
    singular = torch.linalg.svdvals(V)
    smallest = float(singular[-1])
    return math.inf if smallest == 0 else float(singular[0]) / smallest


def _check_matrix(A: Tensor) -> Tensor:
    if A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] < 1:
        raise ValueError(f"A must be a square matrix, not of shape {tuple(A.shape)}")
    if not bool(torch.isfinite(A).all()):
        raise ValueError("A holds NaN or infinite entries")
    return A.detach().to(torch.complex128 if A.is_complex() else torch.float64)


def _report(A: Tensor, E: Tensor, w: Tensor, V: Tensor) -> dict[str, Any]:
    try:
        restored = torch.linalg.solve(V.mT, (V * w).mT).mT
        error = float(torch.linalg.matrix_norm(restored - (A + E), 2))
    except torch.linalg.LinAlgError:  # eigenvectors that are dependent to the last bit
        error = math.inf
    return {
        "condition": condition_number(V),
        "perturbation": float(torch.linalg.matrix_norm(E, 2)),
        "residual": error / max(float(torch.linalg.matrix_norm(A, 2)), 1e-300),
        "abscissa": float(w.real.max()),
    }


def diagonalize(A: Float[Tensor, "rows columns"] | Complex[Tensor, "rows columns"]) -> Diagonalization:
    """The eigendecomposition as it is, without perturbation, and how much of it to believe.

    Its report is that of `perturb_diagonalize`, without the search; the residual may be infinite.

    Raises:
        ValueError: A not square or not finite.
    """
    matrix = _check_matrix(A)
    w, V = torch.linalg.eig(matrix)
    zero = torch.zeros_like(matrix)
    return Diagonalization(w, V, zero, _report(matrix, zero, w, V))


def perturb_diagonalize(
    A: Float[Tensor, "rows columns"] | Complex[Tensor, "rows columns"],
    eps: float = 0.1,
    steps: int = 100,
    candidates: int = 5,
    *,
    lr: float = 0.2,
    relative: bool = False,
    stable: bool = False,
    generator: torch.Generator | None = None,
) -> Diagonalization:
    """A + E = V diag(w) V⁻¹ with ‖E‖₂ ≤ eps and well-conditioned eigenvectors V.

    Minimizes log ‖V‖_F ‖V⁻¹‖_F over the ball ‖E‖₂ ≤ eps by projected Adam, from the best of
    `candidates` Gaussian matrices scaled to the ball's surface; ``steps=0`` returns that candidate
    itself, the baseline. Computed in float64.

    Args:
        eps: radius of the ball; of eps ‖A‖₂ where `relative` is true.
        steps: Adam steps.
        candidates: random starts to choose from.
        lr: first step size (halved at every step that is taken back), as a share of the typical size of an
            entry on the ball's surface, eps/√states.
        stable: whether the spectrum must stay in the open left half plane: perturbations that leave it
            are passed over.
        generator: source of the random starts; without one, a fixed seed, so that equal calls agree.

    Raises:
        ValueError: A not square or with NaN or infinite entries; eps ≤ 0; no candidates; `stable` and
            every perturbation tried has an eigenvalue with Re ≥ 0.

    Source: Yu et al., "Robustifying State-space Models for Long Sequences via Approximate
    Diagonalization" (arXiv 2310.01698), section 3: eigenvector conditioning traded against ‖E‖.
    """
    matrix = _check_matrix(A)
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps={eps} must be positive and finite: it is the largest allowed ‖E‖₂")
    if candidates < 1 or steps < 0:
        raise ValueError(f"candidates={candidates} must be at least 1 and steps={steps} at least 0")
    size = matrix.shape[0]
    radius = eps * float(torch.linalg.matrix_norm(matrix, 2)) if relative else float(eps)
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    best: tuple[float, Tensor] | None = None
    conditions = []
    for _ in range(candidates):
        E = _onto_sphere(torch.randn(size, size, dtype=matrix.dtype, generator=generator).to(matrix.device), radius)
        w, V = torch.linalg.eig(matrix + E)
        conditions.append(condition_number(V))
        if (not stable or float(w.real.max()) < 0) and (best is None or conditions[-1] < best[0]):
            best = (conditions[-1], E)
    if best is None:
        raise ValueError(
            f"each of the {candidates} perturbations of size {radius:g} has an eigenvalue with Re ≥ 0; "
            "use a smaller eps, more candidates, or stable=False"
        )

    E, history = _descend(matrix, best[1], radius, steps, lr * radius / math.sqrt(size), stable)
    w, V = torch.linalg.eig(matrix + E)
    report = _report(matrix, E, w, V) | {"start_condition": conditions, "history": history}
    if not stable and report["abscissa"] >= 0 and float(torch.linalg.eigvals(matrix).real.max()) < 0:
        warnings.warn(
            f"the perturbed spectrum reaches Re = {report['abscissa']:g} ≥ 0; use stable=True or a smaller eps",
            UnstableSpectrumWarning,
            stacklevel=2,
        )
    return Diagonalization(w, V, E, report)


def _onto_sphere(E: Tensor, radius: float) -> Tensor:
    return E * (radius / torch.linalg.matrix_norm(E, 2))


def _into_ball(E: Tensor, radius: float) -> Tensor:
    """Scaled back into the ball if outside: a hair inside, so that rounding cannot push ‖E‖₂ over."""
    norm = float(torch.linalg.matrix_norm(E, 2))
    return E if norm <= radius else E * (radius * (1 - 1e-12) / norm)


def _descend(
    A: Tensor, start: Tensor, radius: float, steps: int, lr: float, stable: bool
) -> tuple[Tensor, list[float]]:
    """Projected Adam on log ‖V⁻¹‖_F (‖V‖_F is √states, its columns having unit length).

    The function has cliffs where two eigenvalues meet: a step that lands on one is taken back, its
    length halved and its momentum forgotten.
    """
    E = _into_ball(start, radius)
    best, best_value, best_gradient = E, math.inf, torch.zeros_like(E)
    first, second, age = torch.zeros_like(E), torch.zeros(E.shape, dtype=torch.float64, device=E.device), 0
    history: list[float] = []
    for _ in range(steps):
        point = E.clone().requires_grad_(True)
        with torch.enable_grad():  # a caller may have switched gradients off: these are of no concern to it
            w, V = torch.linalg.eig(A + point)
            value = torch.log(torch.linalg.matrix_norm(torch.linalg.inv(V))) + 0.5 * math.log(len(A))
            (gradient,) = torch.autograd.grad(value, point)
        improved = value.item() < best_value and (not stable or float(w.detach().real.max()) < 0)
        if improved:
            best, best_value, best_gradient = E, value.item(), gradient
        elif value.item() > best_value + _CLIFF:
            E, gradient, lr, age = best, best_gradient, lr / 2, 0
            first, second = torch.zeros_like(first), torch.zeros_like(second)
        history.append(best_value)
        age += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient.abs().square()
        move = (first / (1 - 0.9**age)) / (torch.sqrt(second / (1 - 0.99**age)) + 1e-12)
        E = _into_ball(E - lr * move, radius)
    return best, history
