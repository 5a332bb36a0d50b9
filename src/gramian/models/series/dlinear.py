"""DLinear: trend and remainder, each mapped linearly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.series.starts import redraw_

__all__ = ["DLinear"]


class DLinear(nn.Module):
    """A moving average and what it leaves, each mapped linearly from look-back to horizon, the same for all channels.

    Args:
        look_back, horizon: steps read and forecast.
        width: of the moving average, whose ends repeat the first and the last value.
        generator: of the initial weights; None starts both maps as means, as published.

    Raises:
        ValueError: a size below 1, an even width, another look-back.

    Source: Zeng et al., "Are Transformers Effective for Time Series Forecasting?" (2022), section 4.
    """

    def __init__(
        self, look_back: int, horizon: int, width: int = 25, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if min(look_back, horizon, width) < 1:
            raise ValueError(f"{look_back=}, {horizon=} and {width=} must be at least 1")
        if width % 2 == 0:
            raise ValueError(f"width={width} must be odd, so that the average is centred")
        self.look_back, self.width = look_back, width
        self.trend = nn.Linear(look_back, horizon)
        self.rest = nn.Linear(look_back, horizon)
        redraw_(self, generator)
        if generator is None:
            for part in (self.trend, self.rest):
                nn.init.constant_(part.weight, 1 / look_back)
                nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "batch look_back channels"]) -> Float[Tensor, "batch horizon channels"]:
        if x.shape[1] != self.look_back:
            raise ValueError(f"x has {x.shape[1]} steps, but the model reads look_back={self.look_back}")
        x = x.mT
        side = self.width // 2
        trend = F.avg_pool1d(F.pad(x, (side, side), mode="replicate"), self.width, stride=1)
        return (self.trend(trend) + self.rest(x - trend)).mT
