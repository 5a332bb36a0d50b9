"""The slow-fast encoding block: ten branches, one bottleneck, no residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.hyperzzw.magnet import MAGNet
from gramian.nn.hyperzzw.operators import HyperZZWLocal, hyperzzw_global
from gramian.nn.hyperzzw.units import (
    RGU,
    ChannelInteraction,
    GroupStandardization,
    HyperInteraction,
    pointwise,
    standardize,
)

__all__ = ["SFNEBlock"]


class SFNEBlock(nn.Module):
    r"""Ten branches of the maps x, mixed down by one linear map of the channels, and standardized in groups.

    \(y = \mathrm{dropout}(\mathrm{GELU}(\mathrm{GIBS}(B\,[\text{branches}])) + b)\). With W the global kernel, m the
    mixed and c the channel-weighed maps, both standardized, and fast maps
    \(f = \mathrm{standardize}(\mathrm{RGU}(x W) + \mathrm{RGU}'(x))\), the branches are \(g = (x W) f\),
    \((x W) m\), \((x W) c\), f, \(g\,\sigma(g)\), x weighed by g (`HyperInteraction`), and four convolutions with
    kernels drawn from maps: c by x, x by c, x by m, m by x. The input is never added to anything.

    Args:
        channels: of the input.
        factor: outputs are this many times as many.
        size: height and width of the maps.
        kernel_sizes: of the four local branches, odd.
        groups: of the standardization behind the bottleneck; they divide channels · factor.
        width, layers: of the slow network of the global kernel.
        local_width: of the slow networks of the local kernels, and of the one over channels.
        frequency: of all slow networks.
        dropout: share of the output's channels.
        generator: of the initial weights.

    Raises:
        ValueError: outputs that the groups do not divide, even kernel sizes, maps smaller than 2 × 2, other than
            four kernel sizes.

    Source: Zhang (2024), with the wiring of the released code.

    >>> SFNEBlock(2, 6, 8, groups=4)(torch.rand(3, 2, 8, 8)).shape
    torch.Size([3, 12, 8, 8])
    """

    def __init__(
        self, channels: int, factor: int, size: int, *, kernel_sizes: tuple[int, ...] = (3, 9, 5, 7),
        groups: int = 12, width: int = 64, layers: int = 2, local_width: int = 32, frequency: float | int = 1.0,
        dropout: float | int = 0.0, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if size < 2:
            raise ValueError(f"size={size}: maps must be 2 × 2 at least, a single place has no variance")
        if len(kernel_sizes) != 4:
            raise ValueError(f"kernel_sizes={kernel_sizes}: four are needed, one for each local branch")
        self.channels, self.size = channels, size
        draw = {"frequency": frequency, "generator": generator}
        self.standardize = GroupStandardization(channels * factor, groups)
        self.slow = MAGNet(channels, size, width=width, layers=layers, **draw)
        self.fast = nn.ModuleList(RGU(channels, size, generator) for _ in range(2))
        self.mixer = pointwise(channels, channels, generator)
        self.channel_interaction = ChannelInteraction(channels, width=local_width, **draw)
        self.interaction = HyperInteraction(channels, size, widths=(max(1, local_width // 2), width), **draw)
        self.local = nn.ModuleList(HyperZZWLocal(channels, k, width=local_width, **draw) for k in kernel_sizes)
        self.bottleneck = pointwise(10 * channels, channels * factor, generator)
        self.dropout = nn.Dropout2d(dropout)
        self.bias = nn.Parameter(torch.zeros(1))

    def branches(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch channels height width"]]:
        """The ten branches, before they are concatenated.

        Raises:
            ValueError: maps of another size or number of channels.
        """
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(f"maps of {tuple(x.shape[1:])}; this block is for {(self.channels, self.size, self.size)}")
        weight = self.slow()
        fast = standardize(self.fast[0](x * weight) + self.fast[1](x))
        mixed = standardize(self.mixer(x))
        weighed = standardize(self.channel_interaction(x))
        out = hyperzzw_global(x, weight, fast)
        return [
            out,
            hyperzzw_global(x, weight, mixed),
            hyperzzw_global(x, weight, weighed),
            fast,
            F.silu(out),
            self.interaction(out, x),
            self.local[0](x, weighed),
            self.local[1](weighed, x),
            self.local[2](mixed, x),
            self.local[3](x, mixed),
        ]

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs height width"]:
        y = self.standardize(self.bottleneck(torch.cat(self.branches(x), 1)))
        return self.dropout(F.gelu(y) + self.bias)
