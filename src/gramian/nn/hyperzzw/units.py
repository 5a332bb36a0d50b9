"""Parts of the fast network: standardization without parameters, the recursive gate, the hyper-interactions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.hyperzzw.magnet import MAGNet
from gramian.nn.hyperzzw.operators import hyperzzw_elementwise

__all__ = ["RGU", "ChannelInteraction", "GroupStandardization", "HyperInteraction", "pointwise", "standardize"]


def standardize(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Each channel of each sample with mean 0 and variance 1 over its places.

    >>> standardize(torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])).round().tolist()
    [[[[-1.0, 1.0], [-1.0, 1.0]]]]
    """
    return F.instance_norm(x)


def pointwise(inputs: int, outputs: int, generator: torch.Generator | None, *, linear: bool = False) -> nn.Conv2d:
    """A linear map of the channels at each place, without bias at first."""
    layer = nn.Conv2d(inputs, outputs, 1)
    if linear:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear", generator=generator)
    else:
        nn.init.kaiming_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class GroupStandardization(nn.Module):
    """G-IBS: the channels in groups, every other one standardized over the batch, the rest each sample by itself.

    Even groups, from the zeroth, take their moments over batch and places (running moments in evaluation); odd
    groups over the places of each sample. Either way a channel's mean over a training batch is 0.

    Args:
        channels: a multiple of `groups`.
        groups: at least 2.

    Raises:
        ValueError: fewer than 2 groups, or channels that they do not divide.

    Source: Zhang (2024), "group-based instance-batch standardization", in the form of the released code.

    >>> GroupStandardization(4, 2)(torch.rand(3, 4, 5, 5)).mean((0, 2, 3)).abs().max() < 1e-5
    tensor(True)
    """

    def __init__(self, channels: int, groups: int = 12) -> None:
        super().__init__()
        if groups < 2 or channels % groups:
            raise ValueError(f"channels={channels} must be a multiple of groups={groups}, which are at least 2")
        self.size = channels // groups
        even = torch.arange(channels) // self.size % 2 == 0
        self.register_buffer("even", even.view(-1, 1, 1), persistent=False)
        self.batch = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return torch.where(self.even, self.batch(x), standardize(x))


class RGU(nn.Module):
    r"""Recursive gated unit: \(y = Y\,[\mathrm{GELU}(\mathrm{standardize}(K x \odot Q V x)) + p]\).

    K, Q, V and Y map channels at each place; p is a plane that all channels share.

    Args:
        channels: of the maps.
        size: of the maps, height and width.
        generator: of the initial weights.

    Source: Zhang (2024), in the form of the released code.

    >>> RGU(3, 8)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, channels: int, size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.key, self.value, self.query, self.output = (
            pointwise(channels, channels, generator, linear=True) for _ in range(4)
        )
        self.plane = nn.Parameter(torch.zeros(size, size))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        gated = self.key(x) * self.query(self.value(x))
        return self.output(F.gelu(standardize(gated)) + self.plane)


class ChannelInteraction(nn.Module):
    r"""Channels weighed by their means y: \(x \odot \sigma(y \odot (y \odot W))\), W a kernel over the channels.

    Args:
        channels: of the maps.
        width: of the slow network.
        settings: layers, frequency, generator of `gramian.nn.hyperzzw.magnet.MAGNet`.

    Source: Zhang (2024), "hyper-channel interaction".

    >>> ChannelInteraction(3)(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, channels: int, *, width: int = 32, layers: int = 2, frequency: float | int = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        settings = {"width": width, "layers": layers, "frequency": frequency}
        self.slow = MAGNet(1, channels, dimensions=1, **settings, generator=generator)

    def score(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels 1 1"]:
        """Before the sigmoid."""
        return hyperzzw_elementwise(x.mean((2, 3)), self.slow()[0])[..., None, None]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return x * torch.sigmoid(self.score(x))


class HyperInteraction(nn.Module):
    r"""Pixels of x weighed by maps y: \(x \odot \sigma(s_c\, s_p)\), a score of the channel times one of the place.

    \(s_c\) is that of `ChannelInteraction`; \(s_p = \bar y \odot (\bar y \odot W)\) with the mean over channels and a
    kernel over the places.

    Args:
        channels, size: of the maps.
        widths: of the slow networks over channels and over places.
        settings: layers, frequency, generator of `gramian.nn.hyperzzw.magnet.MAGNet`.

    Source: Zhang (2024), "hyper interaction".

    >>> HyperInteraction(3, 8)(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, channels: int, size: int, *, widths: tuple[int, int] = (16, 64), layers: int = 2,
        frequency: float | int = 1.0, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        settings = {"layers": layers, "frequency": frequency, "generator": generator}
        self.over_channels = ChannelInteraction(channels, width=widths[0], **settings)
        self.slow = MAGNet(1, size, width=widths[1], **settings)

    def forward(
        self, y: Float[Tensor, "batch channels height width"], x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The maps x, weighed by scores that the maps y give."""
        places = hyperzzw_elementwise(y.mean(1, keepdim=True), self.slow())
        return x * torch.sigmoid(places * self.over_channels.score(y))
