"""SpaceTime: companion state spaces that read a series, and one that rolls it on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.scan.lti import fft_convolution
from gramian.nn.series.starts import redraw_
from gramian.nn.state.companion import ClosedLoop, Companion

__all__ = ["Residuals", "SpaceTime"]


class Residuals(nn.Module):
    """Fixed causal filters: differences of order 0 to 3, and what a moving average leaves.

    Channel i has filter i mod 8: the first four are the differences, the others δ − 1/w over the last w steps, with w
    drawn once between 4 and `longest`.

    Raises:
        ValueError: longest below 5.
    """

    def __init__(self, channels: int, longest: int = 64, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if longest < 5:
            raise ValueError(f"longest={longest} must be at least 5, one more than the shortest average")
        kernel = torch.zeros(channels, longest)
        for channel in range(channels):
            if (order := channel % 8) < 4:
                signed = [(-1.0) ** k * math.comb(order, k) for k in range(order + 1)]
                kernel[channel, : order + 1] = torch.tensor(signed)
            else:
                width = int(torch.randint(4, longest, (), generator=generator))
                kernel[channel, :width] = -1 / width
                kernel[channel, 0] += 1
        self.register_buffer("kernel", kernel)

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        return fft_convolution(x.mT, self.kernel).mT


class _Block(nn.Module):
    """z + g + linear(g), g = GELU(companion(z)), z = the filtered input (or the input)."""

    def __init__(
        self,
        width: int,
        state_size: int,
        kernels: int,
        filters: Residuals | None,
        dropout: float,
        normalize: str,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.filters = filters
        self.system = Companion(width, state_size, kernels=kernels, normalize=normalize, generator=generator)
        self.mix = nn.Linear(width, width)
        redraw_(self.mix, generator)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.filters is None else self.filters(x)
        y = self.system(z, need_state=False)[0]
        return z + y + self.mix(self.dropout(F.gelu(y)))


class SpaceTime(nn.Module):
    """A forecaster made of companion state spaces.

    The series, less its mean over the look-back, is copied to `width` channels. The first block takes differences and
    moving-average residuals of it and runs a companion system on each; further blocks do the same without the filters.
    The decoder's companion systems read the whole look-back and then run in closed loop for `horizon` steps; a linear
    map reads the forecast off them. Channels of the series are forecast each by itself, with the same weights.

    Training adds two terms to the forecast's error: of the decoder's one-step predictions within the look-back, and
    of its predictions of its own next input (`training_loss`).

    Args:
        look_back, horizon: steps read and forecast.
        width: channels inside.
        state_size: states of each system.
        kernels: different systems in the first block.
        blocks: blocks before the decoder.
        longest: widest moving average.
        dropout: before each linear map.
        normalize: of the systems' vectors, see `Companion`; ``all`` as in the released code.
        root: whether each term of the loss is the root of its mean square, as in the released runs.
        generator: of the initial weights.

    Raises:
        ValueError: a size below 1, another look-back, NaN.

    Source: Zhang et al., "Effectively Modeling Time Series with Simple Discrete State Spaces" (arXiv 2303.09489),
    section 3.3.

    >>> model = SpaceTime(look_back=48, horizon=12, width=16, state_size=8, kernels=8)
    >>> model(torch.randn(2, 48, 3)).shape
    torch.Size([2, 12, 3])
    """

    def __init__(
        self,
        look_back: int,
        horizon: int,
        width: int = 128,
        state_size: int = 64,
        kernels: int = 16,
        blocks: int = 1,
        longest: int = 64,
        dropout: float = 0.25,
        *,
        normalize: str = "all",
        root: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(look_back, horizon, width, state_size, blocks) < 1:
            raise ValueError(f"{look_back=}, {horizon=}, {width=}, {state_size=} and {blocks=} must be at least 1")
        self.look_back, self.horizon, self.width, self.root = look_back, horizon, width, root
        filters = Residuals(width, longest, generator=generator)
        rest = (dropout, normalize, generator)
        first = _Block(width, state_size, kernels, filters, *rest)
        self.blocks = nn.Sequential(first, *(_Block(width, state_size, width, None, *rest) for _ in range(blocks - 1)))
        self.decoder = ClosedLoop(width, state_size, normalize=normalize, generator=generator)
        self.read = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))
        redraw_(self.read, generator)

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder reads (series, look_back, width), and each series' mean."""
        if x.shape[1] != self.look_back:
            raise ValueError(f"x has {x.shape[1]} steps, but the model reads look_back={self.look_back}")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the window has NaN or infinity; fill the gaps first")
        series = x.mT.reshape(-1, self.look_back, 1)
        mean = series.mean(1, keepdim=True)
        return self.blocks((series - mean).expand(-1, -1, self.width)), mean

    def _roll(self, state: Tensor, mean: Tensor) -> Tensor:
        return (self.read(self.decoder.rollout(state, self.horizon)) + mean)[..., 0]

    def forward(self, x: Float[Tensor, "batch look_back channels"]) -> Float[Tensor, "batch {self.horizon} channels"]:
        z, mean = self._encode(x)
        return self._roll(self.decoder.last_state(z), mean).view(len(x), x.shape[2], self.horizon).mT

    def training_loss(
        self, x: Float[Tensor, "batch look_back channels"], future: Float[Tensor, "batch horizon channels"]
    ) -> Float[Tensor, ""]:
        """Errors of the forecast, of the one-step predictions, and of the predicted next inputs, added.

        The last two start once `state_size` steps have been read.
        """
        z, mean = self._encode(x)
        truth = torch.cat((x, future), 1).mT.reshape(len(z), -1)
        warm = min(self.decoder.state_size, self.look_back - 1)
        outputs, inputs, state = self.decoder.read(z)
        steps = (self.read(outputs) + mean)[..., 0]
        gaps = (
            self._roll(state, mean) - truth[:, self.look_back :],
            steps[:, warm - 1 :] - truth[:, warm : self.look_back + 1],
            inputs[:, warm - 1 : -1] - z[:, warm:],
        )
        squares = [gap.square().mean() for gap in gaps]
        return torch.stack([(s + 1e-12).sqrt() if self.root else s for s in squares]).sum()
