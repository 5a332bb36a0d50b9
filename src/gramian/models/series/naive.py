"""The last season again: the forecast that costs nothing."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SeasonalNaive"]


class SeasonalNaive(nn.Module):
    """The last season again and again; with period 1, the last value.

    Args:
        horizon: steps to forecast.
        period: steps in a season.

    Raises:
        ValueError: a size below 1; a look-back shorter than the season.

    >>> SeasonalNaive(horizon=3, period=2)(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten()
    tensor([2., 3., 2.])
    """

    def __init__(self, horizon: int, period: int = 1) -> None:
        super().__init__()
        if min(horizon, period) < 1:
            raise ValueError(f"{horizon=} and {period=} must be at least 1")
        self.horizon, self.period = horizon, period

    def forward(self, x: Float[Tensor, "batch look_back channels"]) -> Float[Tensor, "batch {self.horizon} channels"]:
        if x.shape[1] < self.period:
            raise ValueError(f"a look-back of {x.shape[1]} does not hold a season of {self.period}")
        season = x[:, x.shape[1] - self.period :]
        return season[:, torch.arange(self.horizon, device=x.device) % self.period]
