"""Metrics on positive definite matrices made from another one by a change of variable."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gramian.linalg.manifold import spd_functions as fn
from gramian.linalg.manifold.spd import SPDMetric
from gramian.linalg.manifold.spd_functions import symmetrize

__all__ = ["Congruent", "PowerDeformed"]


class _Pulled(SPDMetric):
    """The pullback of a metric by a diffeomorphism φ, with its differential and their inverses."""

    def __init__(self, base: SPDMetric) -> None:
        self.base = base

    def _to(self, P: Tensor) -> Tensor:
        raise NotImplementedError

    def _from(self, P: Tensor) -> Tensor:
        raise NotImplementedError

    def _push(self, P: Tensor, V: Tensor) -> Tensor:
        """Dφ at P."""
        raise NotImplementedError

    def _pull(self, P: Tensor, V: Tensor) -> Tensor:
        """The inverse of Dφ at P."""
        raise NotImplementedError

    def exp(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self._from(self.base.exp(self._to(P), self._push(P, V)))

    def log(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self._pull(P, self.base.log(self._to(P), self._to(Q)))

    def transport(
        self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b n n"]:
        return self._pull(Q, self.base.transport(self._to(P), self._to(Q), self._push(P, V)))

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self.base.whiten(self._to(P), self._push(P, V))

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return self._pull(P, self.base.unwhiten(self._to(P), W))

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        return self.base.dist(self._to(P), self._to(Q))

    def inner(
        self, P: Float[Tensor, "*#b n n"], U: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b"]:
        return self.base.inner(self._to(P), self._push(P, U), self._push(P, V))

    def _mean_step(self, G: Tensor, X: Tensor, w: Tensor) -> Tensor:
        return self._from(symmetrize(self.base._mean_step(self._to(G), self._to(X), w)))


class Congruent(_Pulled):
    """The base metric after X ↦ M^−½ X M^−½; with Bures–Wasserstein, the generalized metric GBW(M).

    Args:
        base: the metric to move.
        M: a positive definite matrix (n, n).

    Source: Han, Mishra, Jawanpuria and Gao, "On Riemannian optimization over positive definite matrices
    with the Bures–Wasserstein geometry" (2021).
    """

    def __init__(self, base: SPDMetric, M: Float[Tensor, "n n"]) -> None:
        super().__init__(base)
        fn.check_spd(M.detach(), "M")
        self.M = M
        self._root, self._inverse = fn.matrix_sqrt(M), fn.matrix_power(M, -0.5)

    def _to(self, P: Tensor) -> Tensor:
        return symmetrize(self._inverse @ P @ self._inverse)

    def _from(self, P: Tensor) -> Tensor:
        return symmetrize(self._root @ P @ self._root)

    def _push(self, P: Tensor, V: Tensor) -> Tensor:
        return self._to(V)

    def _pull(self, P: Tensor, V: Tensor) -> Tensor:
        return self._from(V)

    def __repr__(self) -> str:
        return f"Congruent({self.base!r})"


class PowerDeformed(_Pulled):
    """The base metric after X ↦ X^θ, divided by θ²; tends to the log-Euclidean metric as θ → 0.

    Args:
        base: the metric to deform.
        theta: the power, not 0.

    Raises:
        ValueError: theta = 0.

    Source: Thanwerdas and Pennec, "Is affine-invariance well defined on SPD matrices? A principled
    continuum of metrics" (2019).
    """

    def __init__(self, base: SPDMetric, theta: float | int) -> None:
        super().__init__(base)
        if theta == 0:
            raise ValueError("theta=0 collapses every matrix to the identity; LogEuclidean() is the limit")
        self.theta = float(theta)

    def _to(self, P: Tensor) -> Tensor:
        return fn.matrix_power(P, self.theta)

    def _from(self, P: Tensor) -> Tensor:
        return fn.matrix_power(P, 1 / self.theta)

    def _push(self, P: Tensor, V: Tensor) -> Tensor:
        return fn.function_derivative(P, V, fn.power(self.theta))

    def _pull(self, P: Tensor, V: Tensor) -> Tensor:
        return fn.function_derivative(self._to(P), V, fn.power(1 / self.theta))

    def whiten(self, P: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return super().whiten(P, V) / abs(self.theta)

    def unwhiten(self, P: Float[Tensor, "*#b n n"], W: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b n n"]:
        return super().unwhiten(P, W * abs(self.theta))

    def dist(self, P: Float[Tensor, "*#b n n"], Q: Float[Tensor, "*#b n n"]) -> Float[Tensor, "*#b"]:
        return super().dist(P, Q) / abs(self.theta)

    def inner(
        self, P: Float[Tensor, "*#b n n"], U: Float[Tensor, "*#b n n"], V: Float[Tensor, "*#b n n"]
    ) -> Float[Tensor, "*#b"]:
        return super().inner(P, U, V) / self.theta**2

    def __repr__(self) -> str:
        return f"PowerDeformed({self.base!r}, theta={self.theta:g})"
