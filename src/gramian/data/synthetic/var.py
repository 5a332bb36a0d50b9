"""Vector autoregressions whose best forecast, and its error, are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gramian.data.synthetic.dynamics import vector_autoregression

__all__ = ["VAR", "neighbours"]


@dataclass(frozen=True)
class VAR:
    r"""x(t) = Σₖ Aₖ x(t − k) + e(t), with Gaussian innovations e of covariance Σ.

    Attributes:
        coefficients: A₁ … A_p.
        noise: Σ.

    Raises:
        ValueError: shapes that do not fit, or a process that is not stationary.

    >>> ar = VAR(np.array([[[0.5]]]), np.eye(1))
    >>> round(ar.bayes_mse(2), 3)  # (1 + 1.25) / 2
    1.125
    """

    coefficients: Float[np.ndarray, "steps channels inputs"]
    noise: Float[np.ndarray, "noises noise"]

    def __post_init__(self) -> None:
        steps, channels, width = self.coefficients.shape
        if channels != width or self.noise.shape != (channels, channels) or steps < 1:
            raise ValueError(f"coefficients {self.coefficients.shape} and noise {self.noise.shape} do not fit")
        if (radius := np.abs(np.linalg.eigvals(self.companion)).max()) >= 1:
            raise ValueError(f"the process is not stationary: spectral radius {radius:.3g}, which must be below 1")

    @property
    def companion(self) -> Float[np.ndarray, "states states"]:
        """The matrix that takes (x(t − 1), …, x(t − p)) one step further."""
        steps, channels, _ = self.coefficients.shape
        matrix = np.eye(steps * channels, k=-channels)
        matrix[:channels] = self.coefficients.transpose(1, 0, 2).reshape(channels, -1)
        return matrix

    def sample(self, length: int, rng: np.random.Generator) -> Float[np.ndarray, "length channels"]:
        """A stationary path."""
        return vector_autoregression(self.coefficients, length, rng, noise=self.noise)[0]

    def error_covariances(self, horizon: int) -> Float[np.ndarray, "{horizon} channels channels"]:
        r"""Covariance of the best forecast's error 1 … horizon steps ahead: \(\sum_{j<h} \Psi_j \Sigma \Psi_j^\top\).

        Ψⱼ is the upper left block of the companion matrix's power j.
        """
        if horizon < 1:
            raise ValueError(f"horizon={horizon} must be at least 1")
        channels = len(self.noise)
        power, total, found = np.eye(len(self.companion)), np.zeros_like(self.noise), []
        for _ in range(horizon):
            response = power[:channels, :channels]
            total = total + response @ self.noise @ response.T
            found.append(total)
            power = power @ self.companion
        return np.stack(found)

    def bayes_mse(self, horizon: int, std: Float[np.ndarray, " channels"] | None = None) -> float:
        """Mean squared error of the best forecast, over steps and channels; in units of `std` where it is given."""
        squares = np.diagonal(self.error_covariances(horizon), axis1=1, axis2=2)
        return float((squares if std is None else squares / std**2).mean())

    def variance(self) -> Float[np.ndarray, "channels channels"]:
        """Covariance of x(t) with itself."""
        from scipy.linalg import solve_discrete_lyapunov

        channels, states = len(self.noise), len(self.companion)
        drive = np.zeros((states, states))
        drive[:channels, :channels] = self.noise
        return solve_discrete_lyapunov(self.companion, drive)[:channels, :channels]

    def forecast(
        self, past: Float[np.ndarray, "windows look_back channels"], horizon: int
    ) -> Float[np.ndarray, "windows {horizon} channels"]:
        """The conditional mean of what follows.

        Raises:
            ValueError: a past shorter than the order.
        """
        steps, channels, _ = self.coefficients.shape
        if past.shape[1] < steps:
            raise ValueError(f"the process looks {steps} steps back, the past has {past.shape[1]}")
        state = past[:, ::-1][:, :steps].reshape(len(past), -1)
        found = []
        for _ in range(horizon):
            state = state @ self.companion.T
            found.append(state[:, :channels])
        return np.stack(found, 1)


def neighbours(channels: int, own: float = 0.3, coupling: float = 0.6, second: float = -0.2) -> VAR:
    """A ring: each channel follows itself and, more strongly, the channel before it; unit innovations.

    x_i(t) = own · x_i(t−1) + coupling · x_{i−1}(t−1) + second · x_i(t−2) + e_i(t). What a channel does next is
    mostly in another channel's past, so that forecasting each channel by itself loses.

    Raises:
        ValueError: fewer than 2 channels, or a process that is not stationary.
    """
    if channels < 2:
        raise ValueError(f"channels={channels}: a ring of neighbours needs at least 2")
    first = own * np.eye(channels) + coupling * np.roll(np.eye(channels), 1, axis=0)
    return VAR(np.stack([first, second * np.eye(channels)]), np.eye(channels))
