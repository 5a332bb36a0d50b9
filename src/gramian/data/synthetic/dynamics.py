"""Series of known dynamics: vector autoregressions, and chaotic systems of known dimension."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["henon_map", "lorenz", "vector_autoregression"]


def vector_autoregression(
    coefficients: Float[np.ndarray, "steps channels channels"],
    length: int,
    rng: np.random.Generator,
    *,
    count: int = 1,
    noise: Float[np.ndarray, "channels channels"] | None = None,
) -> Float[np.ndarray, "count length channels"]:
    """Stationary series x(t) = Σₖ Aₖ x(t − k) + e(t) with Gaussian innovations e.

    Args:
        coefficients: A₁ … A_p; zero matrices skip a lag.
        length: samples kept, after a start-up that is thrown away.
        rng: where the innovations come from.
        count: independent series.
        noise: the innovations' covariance; the identity by default.

    Raises:
        ValueError: the process is not stationary.
    """
    order, channels, _ = coefficients.shape
    companion = np.eye(order * channels, k=-channels)
    companion[:channels] = coefficients.transpose(1, 0, 2).reshape(channels, -1)
    radius = np.abs(np.linalg.eigvals(companion)).max()
    if radius >= 1:
        raise ValueError(
            f"the autoregression explodes: its companion matrix has spectral radius {radius:.3g}, not below 1"
        )
    start = order + int(np.ceil(np.log(1e-6) / np.log(max(radius, 1e-3))))  # what came before has faded to 1e-6
    x = rng.standard_normal((start + length, count, channels))
    if noise is not None:
        x = x @ np.linalg.cholesky(noise).T
    step = np.ascontiguousarray(coefficients.transpose(0, 2, 1)).reshape(order * channels, channels)
    for t in range(order, len(x)):
        x[t] += x[t - order : t][::-1].transpose(1, 0, 2).reshape(count, -1) @ step
    return x[start:].transpose(1, 0, 2)


def henon_map(length: int) -> Float[np.ndarray, "length 1"]:
    """The first coordinate of Hénon's map x ← 1 − 1.4x² + y, y ← 0.3x, on its attractor: two delays embed it."""
    x, y, path = 0.1, 0.1, np.empty(length + 100)
    for t in range(len(path)):
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
        path[t] = x
    return path[100:, None]


def lorenz(length: int, interval: float = 0.02) -> Float[np.ndarray, "length 1"]:
    """The first coordinate of Lorenz's system (σ = 10, ρ = 28, β = 8/3), sampled on its attractor."""
    from scipy.integrate import solve_ivp

    def flow(t: float, u: np.ndarray) -> list[float]:
        return [10 * (u[1] - u[0]), u[0] * (28 - u[2]) - u[1], u[0] * u[1] - 8 / 3 * u[2]]

    times = 20 + interval * np.arange(length)
    return solve_ivp(flow, (0, times[-1]), (1.0, 1.0, 1.0), t_eval=times, method="LSODA", rtol=1e-8, atol=1e-8).y[0][
        :, None
    ]
