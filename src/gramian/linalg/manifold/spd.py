"""The geometry of positive definite matrices, metric by metric, batched.

Every metric offers the same operations on P, Q of shape (..., n, n) and symmetric tangent vectors V:
`dist`, `inner`, `exp`, `log`, `transport`, `geodesic`, `frechet_mean` and an isometric `tangent_space`; their
arguments broadcast, so one base point can serve many matrices.
`AffineInvariant`, `LogEuclidean` and `BuresWasserstein` are here; `Congruent` and `PowerDeformed` (in
`gramian.linalg.manifold.spd_deformed`) make new metrics of them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.manifold import spd_functions as fn
from gramian.linalg.manifold.spd_functions import symmetrize

__all__ = ["METRICS", "AffineInvariant", "BuresWasserstein", "LogEuclidean", "MeanNotConverged", "SPDMetric", "metric"]


class MeanNotConverged(UserWarning):
    """A Fréchet mean stopped at its last iteration with the residual above the tolerance."""


class SPDMetric:
    """A Riemannian metric on positive definite matrices; see the subclasses.

    A subclass defines `exp`, `log`, `transport`, `whiten`, `unwhiten` and one step of the fixed-point
    iteration of its mean; the rest follows.
    """

    def exp(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        """Where the geodesic that leaves P with velocity V is at time 1."""
        raise NotImplementedError

    def log(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        """The velocity at P of the geodesic that reaches Q at time 1."""
        raise NotImplementedError

    def transport(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b n n"]:
        """V, parallel along the geodesic from P to Q."""
        raise NotImplementedError

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        """A symmetric matrix whose Frobenius products are the inner products of tangent vectors at P."""
        raise NotImplementedError

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        """The inverse of `whiten`."""
        raise NotImplementedError

    def _mean_step(self, G: Tensor, X: Tensor, w: Tensor) -> Tensor:
        """One step of a contraction whose fixed point is the mean of X (..., m, n, n); G is (..., n, n)."""
        raise NotImplementedError

    def inner(
        self, P: Float[Tensor, "*#b n n"], U: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b"]:
        """⟨U, V⟩ at P."""
        return (self.whiten(P, U) * self.whiten(P, V)).sum((-2, -1))

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        """The geodesic distance; its gradient at P = Q is taken as 0."""
        return torch.linalg.vector_norm(self.whiten(P, self.log(P, Q)), dim=(-2, -1))

    def geodesic(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], t: float | int
    ) -> Float[Tensor, "*#b n n"]:
        """The point at time t on the geodesic from P (t = 0) to Q (t = 1)."""
        return self.exp(P, t * self.log(P, Q))

    def tangent_space(
        self, X: Float[Tensor, "*b n n"], reference: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*b entries"]:
        """Coordinates of log(reference, X): vectors of n(n+1)/2 whose Euclidean norm is the distance."""
        return fn.symmetric_to_vector(self.whiten(reference, self.log(reference, X)))

    def from_tangent_space(
        self, vectors: Float[Tensor, "*b entries"], reference: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*b n n"]:
        """The inverse of `tangent_space`."""
        symmetric = fn.vector_to_symmetric(vectors)
        return self.exp(reference, self.unwhiten(reference, symmetric))

    def frechet_mean(
        self,
        X: Float[Tensor, "*b m n n"],
        w: Float[Tensor, "*b m"] | None = None,
        tol: float = 1e-10,
        max_iter: int = 50,
    ) -> Float[Tensor, "*#b n n"]:
        """The point of least mean squared distance to the m matrices.

        A fixed-point iteration from the arithmetic mean; its gradient comes from the implicit function
        theorem at the fixed point, so memory does not grow with the iterations.

        Args:
            X: the matrices.
            w: weights ≥ 0, of any positive sum; equal by default.
            tol: the iteration stops when no entry moves by more than this, relative to the largest.
            max_iter: most iterations; stopping there with a residual above `tol` warns.

        Raises:
            ValueError: negative weights or a sum of zero, no matrices.
            NotPositiveDefiniteError: a matrix of X is not positive definite.
        """
        if X.shape[-3] == 0:
            raise ValueError("the mean of no matrices is undefined; X needs at least one")
        fn.check_spd(X.detach(), "X")
        w = X.new_ones(X.shape[:-2]) if w is None else w
        total = w.sum(-1, keepdim=True)
        if bool((w < 0).any()) or bool((total <= 0).any()):
            raise ValueError("weights must be ≥ 0 with a positive sum")
        return _Mean.apply(symmetrize(X), w / total, self, max(float(tol), 8 * torch.finfo(X.dtype).eps), max_iter)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Mean(torch.autograd.Function):
    """G = T(G, X, w) solved by iteration; dG = (1 − ∂T/∂G)⁻¹ ∂T/∂(X, w), the inverse by its Neumann series."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, w: Tensor, metric: SPDMetric, tol: float, max_iter: int) -> Tensor:
        G = (w[..., None, None] * X).sum(-3)
        residual = float("inf")
        for _ in range(max_iter):
            G, previous = symmetrize(metric._mean_step(G, X, w)), G
            residual = float((G - previous).abs().amax() / G.abs().amax())
            if residual <= tol:
                break
        else:
            warnings.warn(
                f"{metric!r}: the Fréchet mean's relative residual is {residual:.2g} > tol={tol:g} after {max_iter} "
                "iterations; raise max_iter",
                MeanNotConverged,
                stacklevel=3,
            )
        ctx.save_for_backward(X, w, G)
        ctx.metric, ctx.tol, ctx.max_iter = metric, tol, max_iter
        return G

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        X, w, G = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            image = symmetrize(ctx.metric._mean_step(G, X, w))
        grad = adjoint = symmetrize(grad)
        for _ in range(2 * ctx.max_iter):
            (back,) = torch.autograd.grad(image, G, adjoint, retain_graph=True)
            adjoint, previous = grad + back, adjoint
            if float((adjoint - previous).abs().amax()) <= ctx.tol * float(adjoint.abs().amax()):
                break
        to_X, to_w = torch.autograd.grad(image, (X, w), adjoint)
        return to_X, to_w, None, None, None


def _roots(P: Tensor) -> tuple[Tensor, Tensor]:
    return fn.matrix_sqrt(P), fn.matrix_power(P, -0.5)


def _sandwich(outer: Tensor, Q: Tensor) -> Tensor:
    return symmetrize(outer @ fn.require_symmetric(Q) @ outer)


class AffineInvariant(SPDMetric):
    """⟨U, V⟩_P = tr(P⁻¹ U P⁻¹ V): unchanged by P ↦ A P Aᵀ for any invertible A.

    dist(P, Q) = ‖log P^−½ Q P^−½‖, the distance of Fisher and Rao between centred Gaussians (times √2).

    >>> AffineInvariant().dist(torch.eye(2), torch.eye(2) * torch.e)
    tensor(1.4142)
    """

    def exp(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        root, inverse = _roots(P)
        return symmetrize(root @ fn.matrix_exp(symmetrize(inverse @ V @ inverse)) @ root)

    def log(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        root, inverse = _roots(P)
        return symmetrize(root @ fn.matrix_log(_sandwich(inverse, Q)) @ root)

    def transport(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b n n"]:
        root, inverse = _roots(P)
        carrier = root @ fn.matrix_sqrt(_sandwich(inverse, Q)) @ inverse
        return symmetrize(carrier @ V @ carrier.mT)

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        inverse = fn.matrix_power(P, -0.5)
        return symmetrize(inverse @ V @ inverse)

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        root = fn.matrix_sqrt(P)
        return symmetrize(root @ W @ root)

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        """‖log P^−½ Q P^−½‖."""
        inverse = fn.matrix_power(P, -0.5)
        return torch.linalg.vector_norm(fn.matrix_log(_sandwich(inverse, Q)), dim=(-2, -1))

    def _mean_step(self, G: Tensor, X: Tensor, w: Tensor) -> Tensor:
        root, inverse = _roots(G)
        logs = fn.matrix_log(symmetrize(inverse.unsqueeze(-3) @ X @ inverse.unsqueeze(-3)))
        with torch.no_grad():
            # the Hessian of ½dist² has eigenvalues between 1 and (c/2)coth(c/2), c the spread of the logarithm's
            # eigenvalues; 2/(1 + largest) is then the best fixed step (Bini and Iannazzo, 2013, section 4)
            spectra = torch.linalg.eigvalsh(logs)
            half = ((spectra[..., -1] - spectra[..., 0]) / 2).clamp(min=1e-3)
            step = 2 / (1 + (w * half / torch.tanh(half)).sum(-1))
        mean = (w[..., None, None] * logs).sum(-3) * step[..., None, None]
        return root @ fn.matrix_exp(symmetrize(mean)) @ root


class LogEuclidean(SPDMetric):
    """⟨U, V⟩_P = ⟨D log_P[U], D log_P[V]⟩: the Euclidean geometry of matrix logarithms; flat (Arsigny et al., 2006)."""

    def exp(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return fn.matrix_exp(fn.matrix_log(P) + self.whiten(P, V))

    def log(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self.unwhiten(P, fn.matrix_log(Q) - fn.matrix_log(P))

    def transport(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b n n"]:
        return self.unwhiten(Q, self.whiten(P, V))

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return fn.function_derivative(P, V, fn.LOG)

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return fn.function_derivative(fn.matrix_log(P), W, fn.EXP)

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        """‖log P − log Q‖."""
        return torch.linalg.vector_norm(fn.matrix_log(P) - fn.matrix_log(Q), dim=(-2, -1))

    def _mean_step(self, G: Tensor, X: Tensor, w: Tensor) -> Tensor:
        return fn.matrix_exp((w[..., None, None] * fn.matrix_log(X)).sum(-3)) + 0 * G


class BuresWasserstein(SPDMetric):
    """⟨U, V⟩_P = ½ tr(L U), with P L + L P = V: the Wasserstein geometry of centred Gaussians.

    dist² = tr P + tr Q − 2 tr (P^½ Q P^½)^½. The metric is not complete: `exp` is defined while I + L is
    positive definite. Transport solves the differential equation of the horizontal lift by Runge–Kutta
    steps (exact to rounding where P and Q commute).

    Args:
        transport_steps: Runge–Kutta steps; the error falls with their fourth power.

    `whiten` (and so `tangent_space`) is not differentiable in P where eigenvalues of P repeat.
    """

    def __init__(self, transport_steps: int = 64) -> None:
        self.transport_steps = transport_steps

    def exp(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        """P + V + L P L; raises ValueError where I + L is not positive definite."""
        L = symmetrize(fn.lyapunov(P, V))
        if float(torch.linalg.eigvalsh(L.detach()).min()) <= -1:
            raise ValueError(
                "the Bures–Wasserstein exponential leaves the cone: I + L is not positive definite; shrink V"
            )
        return symmetrize(P + V + L @ P @ L)

    def log(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        T = self._map(P, Q)
        return T @ P + P @ T - 2 * P

    def _map(self, P: Tensor, Q: Tensor) -> Tensor:
        """The optimal transport map: T P T = Q, T positive definite."""
        root, inverse = _roots(P)
        return symmetrize(inverse @ fn.matrix_sqrt(_sandwich(root, Q)) @ inverse)

    def transport(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b n n"]:
        identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
        velocity = self._map(P, Q) - identity

        def rate(t: float, S: Tensor) -> Tensor:
            # along Σ(t) = (I + tL)P(I + tL) the lift of V = SΣ + ΣS moves vertically, which means
            # S' = ΩΣ⁻¹ − SM with M = L(I + tL)⁻¹ and the skew Ω that keeps S symmetric
            factor = identity + t * velocity
            inverse_point = fn.matrix_inverse(symmetrize(factor @ P @ factor))
            M = torch.linalg.solve(factor, velocity)
            omega = fn.lyapunov(inverse_point, S @ M - M @ S)
            return symmetrize(omega @ inverse_point - S @ M)

        S, h = symmetrize(fn.lyapunov(P, V)), 1 / self.transport_steps
        for step in range(self.transport_steps):
            t = step * h
            k1 = rate(t, S)
            k2 = rate(t + h / 2, S + h / 2 * k1)
            k3 = rate(t + h / 2, S + h / 2 * k2)
            k4 = rate(t + h, S + h * k3)
            S = S + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return S @ Q + Q @ S

    def _scaled(self, P: Tensor, V: Tensor, exponent: float) -> Tensor:
        values, vectors = torch.linalg.eigh(P)
        scale = (2 * (values.unsqueeze(-1) + values.unsqueeze(-2))) ** exponent
        return symmetrize(vectors @ (scale * (vectors.mT @ V @ vectors)) @ vectors.mT)

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self._scaled(P, V, -0.5)

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self._scaled(P, W, 0.5)

    def inner(
        self, P: Float[Tensor, "*#b n n"], U: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b"]:
        """½ tr(L U) with P L + L P = V."""
        return (fn.lyapunov(P, V) * U).sum((-2, -1)) / 2

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        """‖(T − I) P^½‖ with T the transport map: no difference of traces, so exact to rounding near P = Q."""
        identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
        return torch.linalg.vector_norm((self._map(P, Q) - identity) @ fn.matrix_sqrt(P), dim=(-2, -1))

    def _mean_step(self, G: Tensor, X: Tensor, w: Tensor) -> Tensor:
        root, inverse = _roots(G)
        middle = fn.matrix_sqrt(symmetrize(root.unsqueeze(-3) @ X @ root.unsqueeze(-3)))
        mean = (w[..., None, None] * middle).sum(-3)
        return inverse @ mean @ mean @ inverse


METRICS: dict[str, type[SPDMetric]] = {
    "affine-invariant": AffineInvariant,
    "log-euclidean": LogEuclidean,
    "bures-wasserstein": BuresWasserstein,
}


def metric(name: str | SPDMetric) -> SPDMetric:
    """A metric by its name (a key of `METRICS`), or the metric itself.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(name, SPDMetric):
        return name
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is not one of {', '.join(METRICS)}")
    return METRICS[name]()
