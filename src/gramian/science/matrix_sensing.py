"""Matrix sensing: a known low-rank matrix, its measurements, and gradient descent from small random factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from gramian.linalg.factor import sensing

__all__ = ["MatrixSensing", "low_rank"]


def low_rank(
    rows: int, columns: int, values: Sequence[float], rng: np.random.Generator, symmetric: bool = False
) -> Float[np.ndarray, "rows columns"]:
    """A random matrix with given singular values; with `symmetric`, positive semidefinite.

    Raises:
        ValueError: more values than the smaller side, or a symmetric matrix that is not square.
    """
    rank = len(values)
    if not 1 <= rank <= min(rows, columns):
        raise ValueError(f"{rank} singular values do not fit a {rows} × {columns} matrix")
    if symmetric and rows != columns:
        raise ValueError(f"a symmetric matrix is square, not {rows} × {columns}")
    left = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
    right = left if symmetric else np.linalg.qr(rng.standard_normal((columns, rank)))[0]
    return (left * np.asarray(values, dtype=np.float64)) @ right.T


class MatrixSensing:
    r"""A sensing problem: \(y_i = \langle A_i, M\rangle\), or M itself (the limit of many measurements).

    Args:
        truth: M.
        operators: A, or None for the population loss \(\frac12\|P - M\|_F^2\).

    Attributes:
        rank: of M, to 1e-10 of its largest singular value.
        values: y, or None.

    Raises:
        ValueError: a zero matrix, NaN, or operators of other shapes.

    >>> problem = MatrixSensing(np.diag([1.0, 0.7, 0.0]))
    >>> run = problem.gd("sym", k=2, alpha=0.1, lr=0.1, steps=400, rng=np.random.default_rng(0))
    >>> run.error[-1] < 1e-20
    True
    """

    def __init__(
        self,
        truth: Float[np.ndarray, "rows columns"],
        operators: Float[np.ndarray, "measurements _ _"] | None = None,
    ) -> None:
        if not np.isfinite(truth).all() or not np.any(truth):
            raise ValueError("the matrix is zero or holds NaN or infinity")
        if operators is not None and operators.shape[1:] != truth.shape:
            raise ValueError(f"operators of shape {operators.shape} do not measure a {truth.shape} matrix")
        self.truth, self.operators = truth.astype(np.float64), operators
        self.rank = int(np.linalg.matrix_rank(truth, tol=1e-10 * np.linalg.norm(truth, 2)))
        self.values = None if operators is None else np.einsum("mij,ij->m", operators, self.truth)

    @classmethod
    def gaussian(
        cls, truth: Float[np.ndarray, "rows columns"], measurements: int, rng: np.random.Generator
    ) -> MatrixSensing:
        """Operators with independent standard normal entries."""
        return cls(truth, rng.standard_normal((measurements, *truth.shape)))

    def residual(self, k: int) -> sensing.Residual:
        """The loss's gradient by the product, for factors of k columns."""
        if self.operators is None or self.values is None:
            return lambda p: p - self.truth
        return sensing.measurement_residual(self.operators, self.values, min(k, self.rank))

    def gd(
        self,
        kind: Literal["sym", "asym"],
        k: int,
        alpha: float | int,
        lr: float,
        steps: int,
        rng: np.random.Generator,
        *,
        imbalance: float | int = 3.0,
        every: int = 100,
        rebalance_at: int | None = None,
        beta: float | int = 1.0,
        tolerance: float = 0.0,
    ) -> sensing.Descent:
        r"""Gradient descent from \(X = \alpha N\), or from \(F = \alpha N_1\), \(G = (\alpha/\text{imbalance}) N_2\).

        Raises:
            ValueError: k below the rank, α that is not positive, or "sym" for a matrix that is not symmetric and
                positive semidefinite.
            Diverging: a learning rate that is too large.
        """
        if k < self.rank:
            raise ValueError(f"k={k} columns cannot hold a matrix of rank {self.rank}; give at least as many")
        if k > min(self.truth.shape):
            raise ValueError(f"k={k} is more than the matrix's smaller side, {min(self.truth.shape)}")
        if not (alpha > 0 and imbalance > 0):
            raise ValueError(f"alpha={alpha} and imbalance={imbalance} must be positive")
        rows, columns = self.truth.shape
        left, right = alpha * rng.standard_normal((rows, k)), None
        if kind == "asym":
            right = alpha / imbalance * rng.standard_normal((columns, k))
        elif kind == "sym":
            square = rows == columns and np.allclose(self.truth, self.truth.T, atol=1e-12)
            if not square or np.linalg.eigvalsh(self.truth)[0] < -1e-10 * np.linalg.norm(self.truth, 2):
                raise ValueError('kind="sym" needs a symmetric positive semidefinite matrix; use kind="asym"')
        else:
            raise ValueError(f'kind={kind!r} is not "sym" or "asym"')
        return sensing.descend(
            self.residual(k), left, right, lr, steps, truth=self.truth, every=every, rebalance_at=rebalance_at,
            beta=beta, tolerance=tolerance,
        )  # fmt: skip
