"""Recover a low-rank matrix from linear measurements by gradient descent on its factors."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from gramian.linalg.factor import sensing

__all__ = ["LowRankSensing", "NotRecovered"]

METHODS = ("rebalanced", "asymmetric", "symmetric")


class NotRecovered(UserWarning):
    """The measurements are not yet met to the tolerance; the residual is in the message."""


class LowRankSensing(RegressorMixin, BaseEstimator):
    r"""A low-rank matrix M with \(\langle A_i, M\rangle \approx y_i\).

    Args:
        rank: columns of the factors; at least the matrix's rank, and more only slow the descent down.
        method: ``"rebalanced"`` (one step of the asymmetric descent makes a factor well conditioned),
            ``"asymmetric"``, or ``"symmetric"`` (for positive semidefinite matrices).
        alpha: size of the random start, as a share of the spectral norm's square root.
        max_iter: descent steps.
        tol: share of the squared residual, of that of zero, at which descent stops.
        rebalance_at: the step of the rebalancing.
        random_state: seed of the start.

    Attributes:
        matrix_: M.
        n_iter_: steps taken.
        residual_: mean squared residual over the mean square of y.

    Source: Xiong, Ding and Du, How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing (2023).
    """

    def __init__(
        self,
        rank: int = 2,
        method: str = "rebalanced",
        alpha: float = 0.05,
        max_iter: int = 3000,
        tol: float = 1e-12,
        rebalance_at: int = 400,
        random_state: int | None = 0,
    ) -> None:
        self.rank = rank
        self.method = method
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.rebalance_at = rebalance_at
        self.random_state = random_state

    def fit(self, A: np.ndarray, y: np.ndarray) -> LowRankSensing:
        """Fit to operators A of shape (measurements, rows, columns) and values y.

        Raises:
            ValueError: shapes that do not fit, an unknown method, a rank outside the matrix's, or all y zero.
        """
        A, y = np.asarray(A, dtype=np.float64), np.asarray(y, dtype=np.float64)
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown; choose one of {', '.join(METHODS)}")
        if A.ndim != 3 or y.shape != (len(A),):
            raise ValueError(
                f"operators of shape (measurements, rows, columns) and as many values are needed, got {A.shape} and "
                f"{y.shape}"
            )
        rows, columns = A.shape[1:]
        if not 1 <= self.rank <= min(rows, columns):
            raise ValueError(f"rank={self.rank} must lie between 1 and the smaller side, {min(rows, columns)}")
        if self.method == "symmetric" and rows != columns:
            raise ValueError(f'method="symmetric" needs square operators, not {rows} × {columns}')
        if not y.any():
            raise ValueError("all measurements are zero, and so is the matrix")
        gradient = sensing.measurement_residual(A, y, self.rank)
        # A*y/m estimates M for near-isotropic operators of unit variance; operators are scaled to that
        scale = float(np.square(A).mean()) ** 0.5
        top = float(np.linalg.norm(gradient(np.zeros((rows, columns))), 2)) / scale**2
        spread = float(np.linalg.norm(A.reshape(len(A), -1), 2)) ** 2 / len(A) / scale**2
        lr = 0.5 / (scale**2 * top * spread)
        rng = np.random.default_rng(self.random_state)
        left = self.alpha * top**0.5 * rng.standard_normal((rows, self.rank))
        right = None
        if self.method != "symmetric":
            right = self.alpha * top**0.5 / 3 * rng.standard_normal((columns, self.rank))
        goal = self.tol * float(np.square(gradient(np.zeros((rows, columns)))).sum())
        run = sensing.descend(
            gradient, left, right, lr, self.max_iter, every=50, tolerance=goal, beta=top**0.5,
            rebalance_at=self.rebalance_at if self.method == "rebalanced" else None,
        )  # fmt: skip
        self.matrix_ = run.matrix
        self.n_iter_ = run.steps[-1]
        self.residual_ = float(np.square(np.einsum("mij,ij->m", A, self.matrix_) - y).mean() / np.square(y).mean())
        self.history_ = {"step": run.steps, "error": run.error}
        if run.error[-1] > goal:
            warnings.warn(
                f"after {self.n_iter_} steps the squared residual is {self.residual_:.2g} of that of zero; give a "
                "larger max_iter= or tol=",
                NotRecovered,
                stacklevel=2,
            )
        return self

    def predict(self, A: np.ndarray) -> np.ndarray:
        """⟨A, M⟩ for operators of shape (count, rows, columns)."""
        check_is_fitted(self, "matrix_")
        A = np.asarray(A, dtype=np.float64)
        if A.ndim != 3 or A.shape[1:] != self.matrix_.shape:
            raise ValueError(f"operators of shape (count, {', '.join(map(str, self.matrix_.shape))}) are needed")
        return np.einsum("mij,ij->m", A, self.matrix_)
