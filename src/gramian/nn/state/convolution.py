"""The short causal convolution in front of a recurrence, which carries its last inputs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.signal import short_convolution


class ShortConvolution(nn.Conv1d):
    """A causal convolution of each channel by itself: y_t = Σ_j w_j x_{t−width+1+j} + b.

    Parameters are those of a grouped `torch.nn.Conv1d`.

    >>> conv = ShortConvolution(3, 4)
    >>> y, carried = conv(torch.randn(2, 3, 10))
    >>> y.shape, carried.shape
    (torch.Size([2, 3, 10]), torch.Size([2, 3, 3]))
    """

    def __init__(self, channels: int, width: int, bias: bool = True) -> None:
        super().__init__(channels, channels, width, groups=channels, bias=bias)

    def initial_state(self, batch: int) -> Float[Tensor, "batch channels carried"]:
        """Zeros: the inputs before the first."""
        return self.weight.new_zeros(batch, self.in_channels, self.kernel_size[0] - 1)

    def forward(
        self,
        x: Float[Tensor, "batch channels length"],
        state: Float[Tensor, "batch channels carried"] | None = None,
        silu: bool = False,
    ) -> tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch channels carried"]]:
        """Outputs, through SiLU if asked, and the last width − 1 inputs to go on from.

        Fastest where the channels of a position lie side by side, as in ``x = rows.mT``; outputs do.
        """
        y, carried = short_convolution.short_convolution(x.mT, self.weight[:, 0], self.bias, state, silu=silu)
        return y.mT, carried


def uniform_(module: nn.Linear | nn.Conv1d, bound: float, generator: torch.Generator | None) -> None:
    """Draw weights (and biases) uniformly in ±`bound`."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
