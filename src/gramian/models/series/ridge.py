"""Ridge autoregression, solved in closed form."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Ridge"]


class Ridge(nn.Module):
    """Ridge regression of the next `horizon` values on the last `look_back`, solved in closed form by `solve`.

    Args:
        look_back, horizon: steps read and forecast.
        channels: None forecasts each channel from itself with one map for all; a number forecasts all channels
            from all.
        penalty: λ of λ|w|², relative to the number of windows; the intercept is free.

    Raises:
        ValueError: a size below 1, a negative penalty, another look-back or number of channels.
    """

    def __init__(self, look_back: int, horizon: int, channels: int | None = None, penalty: float = 1e-4) -> None:
        super().__init__()
        if min(look_back, horizon, channels or 1) < 1 or channels == 0:
            raise ValueError(f"{look_back=}, {horizon=} and {channels=} must be at least 1")
        if penalty < 0:
            raise ValueError(f"penalty={penalty} must not be negative")
        self.look_back, self.horizon, self.channels, self.penalty = look_back, horizon, channels, penalty
        width = channels or 1
        self.register_buffer("weight", torch.zeros(look_back * width, horizon * width))
        self.register_buffer("intercept", torch.zeros(horizon * width))

    def _flat(self, x: Tensor, steps: int) -> Tensor:
        if x.shape[1] != steps or self.channels not in (None, x.shape[2]):
            raise ValueError(
                f"windows of {tuple(x.shape[1:])} given; {steps} steps × {self.channels} channels are expected"
            )
        return x.mT.reshape(-1, steps) if self.channels is None else x.flatten(1)

    def solve(
        self, past: Float[Tensor, "windows look_back channels"], future: Float[Tensor, "windows horizon channels"]
    ) -> Ridge:
        """Fit to windows, in double precision; returns itself."""
        x, y = self._flat(past, self.look_back).double(), self._flat(future, self.horizon).double()
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        gram = x.mT @ x + self.penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(gram, x.mT @ y)
        self.weight.copy_(weight)
        self.intercept.copy_(y_mean - x_mean @ weight)
        return self

    def forward(self, x: Float[Tensor, "batch look_back channels"]) -> Float[Tensor, "batch {self.horizon} channels"]:
        y = self._flat(x, self.look_back) @ self.weight + self.intercept
        if self.channels is None:
            return y.view(len(x), x.shape[2], self.horizon).mT
        return y.view(len(x), self.horizon, self.channels)
