r"""Gradient descent on the factors of a low-rank matrix that is known by linear measurements.

The symmetric form is \(XX^T\), the asymmetric one \(FG^T\). With more columns than the rank, descent on the symmetric
form is slow (\(1/T^2\)); on the asymmetric one it is exponential at a rate set by the imbalance of the factors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

__all__ = [
    "Descent", "Diverging", "TooFewMeasurements", "degrees_of_freedom", "descend", "measurement_residual",
    "rebalance_step",
]  # fmt: skip

Residual = Callable[[np.ndarray], np.ndarray]


class Diverging(RuntimeError):
    """Descent left every bound; the message says at which step and learning rate."""


class TooFewMeasurements(UserWarning):
    """Fewer measurements than a matrix of that rank has degrees of freedom: it cannot be identified."""


def degrees_of_freedom(rows: int, columns: int, rank: int) -> int:
    """Of the matrices of a rank: rank · (rows + columns − rank)."""
    return rank * (rows + columns - rank)


def measurement_residual(
    operators: Float[np.ndarray, "measurements rows columns"], values: Float[np.ndarray, " measurements"], rank: int
) -> Residual:
    r"""P ↦ \(\frac1m \sum_i (\langle A_i, P\rangle - y_i) A_i\), the gradient of half the mean squared residual.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Warns `TooFewMeasurements` below the degrees of freedom of `rank`.
    """
    if operators.ndim != 3 or values.shape != (len(operators),):
        raise ValueError(
            f"operators of shape (measurements, rows, columns) and as many values are needed, got "
            f"{operators.shape} and {values.shape}"
        )
    if not (np.isfinite(operators).all() and np.isfinite(values).all()):
        raise ValueError("the measurements hold NaN or infinity")
    count, rows, columns = operators.shape
    needed = degrees_of_freedom(rows, columns, rank)
    if count < needed:
        warnings.warn(
            f"{count} measurements of a {rows} × {columns} matrix of rank {rank}, which has {needed} degrees of "
            "freedom: other matrices fit as well",
            TooFewMeasurements,
            stacklevel=2,
        )
    flat = np.ascontiguousarray(operators.reshape(count, -1), dtype=np.float64)
    target = values.astype(np.float64)
    return lambda p: ((flat @ p.ravel() - target) @ flat / count).reshape(rows, columns)


@dataclass
class Descent:
    """The course of a descent.

    Attributes:
        left, right: the factors; the same matrix in the symmetric form.
        steps, error: where the squared error was recorded, and what it was.
    """

    left: Float[np.ndarray, "rows k"]
    right: Float[np.ndarray, "columns k"]
    steps: list[int] = field(default_factory=list)
    error: list[float] = field(default_factory=list)

    @property
    def matrix(self) -> Float[np.ndarray, "rows columns"]:
        return self.left @ self.right.T

    def at(self, step: int) -> float:
        """The squared error at a recorded step."""
        return self.error[self.steps.index(step)]

    def log_slope(self, first: int, last: int) -> float:
        """The mean decrease of log(error) per step between two recorded steps: the exponential rate."""
        return (np.log(self.at(first)) - np.log(self.at(last))) / (last - first)


def rebalance_step(
    left: Float[np.ndarray, "rows k"], right: Float[np.ndarray, "columns width"], beta: float | int = 1.0
) -> tuple[Float[np.ndarray, "rows k"], Float[np.ndarray, "columns width"]]:
    r"""Replace the factors by a pair of the same product whose left one is well conditioned.

    With the singular value decomposition \(F = A S B^T\): \(F' = \beta A\), \(G' = G B S/\beta\).

    Raises:
        ValueError: β that is not positive, more columns than rows, or factors of different width.

    Source: in the spirit of Xiong, Ding and Du, How Over-Parameterization Slows Down Gradient Descent in Matrix
    Sensing (2023), section 5; the form is ours.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} must be positive")
    if left.shape[1] != right.shape[1] or left.shape[1] > left.shape[0]:
        raise ValueError(f"factors of shapes {left.shape} and {right.shape}: as many columns, at most the left's rows")
    a, s, bt = np.linalg.svd(left, full_matrices=False)
    return beta * a, right @ (bt.T * s) / beta


def descend(
    residual: Residual,
    left: Float[np.ndarray, "rows k"],
    right: Float[np.ndarray, "columns k"] | None,
    lr: float,
    steps: int,
    *,
    truth: Float[np.ndarray, "rows columns"] | None = None,
    every: int = 100,
    rebalance_at: int | None = None,
    beta: float | int = 1.0,
    tolerance: float = 0.0,
) -> Descent:
    r"""Gradient descent from given factors: \(F \leftarrow F - \eta E G\), \(G \leftarrow G - \eta E^T F\).

    Args:
        residual: product → E, such as P ↦ P − M (all entries known) or `measurement_residual`.
        right: None for the symmetric form, \(X \leftarrow X - \eta E X\).
        truth: the error recorded is \(\|P - \text{truth}\|_F^2\); without it, \(\|E\|_F^2\).
        every: steps between records; the start, the last step and that of the rebalancing are recorded too.
        rebalance_at: the one step before which the factors are rebalanced.
        tolerance: stop when the recorded error is not above it.

    Raises:
        ValueError: a rate that is not positive, no step, or a rebalancing of the symmetric form.
        Diverging: the error exceeds 10⁶ times its start, or is not finite.
    """
    if not lr > 0:
        raise ValueError(f"lr={lr} must be positive")
    if steps < 1 or every < 1:
        raise ValueError(f"steps={steps} and every={every} must be at least 1")
    symmetric = right is None
    if symmetric and rebalance_at is not None:
        raise ValueError("the symmetric form has one factor: only the asymmetric form can be rebalanced")
    f = left.astype(np.float64)
    g = f if right is None else right.astype(np.float64)
    run = Descent(f, g)
    limit = np.inf
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is reported as Diverging
        for step in range(steps + 1):
            if step == rebalance_at:
                f, g = rebalance_step(f, g, beta)
            product = f @ g.T
            e = residual(product)
            if step % every == 0 or step in (steps, rebalance_at):
                error = float(np.square(e if truth is None else product - truth).sum())
                run.steps.append(step)
                run.error.append(error)
                limit = min(limit, 1e6 * (error + 1e-300)) if step == 0 else limit
                if not error <= limit:
                    raise Diverging(f"the error is {error:.3g} at step {step} with lr={lr:g}; lower lr=")
                if error <= tolerance:
                    break
            if step == steps:
                break
            if symmetric:
                f = f - lr * (e @ f)
                g = f
            else:
                f, g = f - lr * (e @ g), g - lr * (e.T @ f)
    run.left, run.right = f, g
    return run
