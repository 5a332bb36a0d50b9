"""The operators that join kernels W of a slow network with maps Z of a fast one: Z · (Z · W)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.hyperzzw.magnet import ContextMAGNet

__all__ = ["HyperZZWLocal", "hyperzzw_elementwise", "hyperzzw_global", "hyperzzw_local"]


def _square(x: Tensor, weight: Tensor) -> None:
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"maps of {tuple(x.shape[-2:])} are not square; pad or crop them, a product needs it")
    if weight.shape != x.shape[1:]:
        raise ValueError(f"a kernel of {tuple(weight.shape)} on maps of {tuple(x.shape[1:])}; the sizes must be equal")


def hyperzzw_global(
    x: Float[Tensor, "batch channels height width"],
    weight: Float[Tensor, "channels kernel_height kernel_width"],
    fast: Float[Tensor, "fast_batch fast_channels fast_height fast_width"],
) -> Float[Tensor, "batch channels height width"]:
    r"""\(y_{ij} = \sum_k x_{ik} W_{ik}\, f_{kj}\), for every sample and channel.

    The kernel is as large as the maps. It weighs them place by place, and the weighted maps multiply, as matrices,
    maps f that a fast network makes of x. One output reads a row of x and a column of f.

    Raises:
        ValueError: maps that are not square, or a kernel or fast maps of another size.

    Source: Zhang (2024).

    >>> eye = torch.eye(2)[None, None]
    >>> hyperzzw_global(torch.ones(1, 1, 2, 2), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), eye).tolist()
    [[[[1.0, 2.0], [3.0, 4.0]]]]
    """
    _square(x, weight)
    if fast.shape != x.shape:
        raise ValueError(f"fast maps of {tuple(fast.shape)} beside maps of {tuple(x.shape)}; they must be alike")
    return (x * weight) @ fast


def hyperzzw_elementwise(
    x: Float[Tensor, "batch *places"], weight: Float[Tensor, "*kernel"]
) -> Float[Tensor, "batch *places"]:
    r"""\(x \odot (x \odot W)\), place by place; a score that is quadratic in x.

    Raises:
        ValueError: a kernel of another size.

    Source: Zhang (2024); it makes the scores of the hyper-interactions.

    >>> hyperzzw_elementwise(torch.tensor([[3.0, -1.0]]), torch.tensor([2.0, 5.0])).tolist()
    [[18.0, 5.0]]
    """
    if weight.shape != x.shape[1:]:
        raise ValueError(f"a kernel of {tuple(weight.shape)} on places of {tuple(x.shape[1:])}; they must be equal")
    return x * (x * weight)


def hyperzzw_local(
    x: Float[Tensor, "batch channels height width"], kernel: Float[Tensor, "kernels size size"]
) -> Float[Tensor, "batch channels height width"]:
    """Convolution of every channel with its own kernel, zeros around, so that the maps keep their size.

    Raises:
        ValueError: kernels of even size, or as many as there are no channels.

    >>> hyperzzw_local(torch.ones(1, 1, 3, 3), torch.ones(1, 3, 3))[0, 0, 1].tolist()
    [6.0, 9.0, 6.0]
    """
    if kernel.shape[-1] % 2 == 0:
        raise ValueError(f"kernels of size {kernel.shape[-1]} have no centre; take an odd size")
    if len(kernel) != x.shape[1]:
        raise ValueError(f"{len(kernel)} kernels for {x.shape[1]} channels; one for each is needed")
    return F.conv2d(x, kernel[:, None], padding=kernel.shape[-1] // 2, groups=len(kernel))


class HyperZZWLocal(nn.Module):
    r"""A convolution whose kernels depend on maps: \(\mathrm{GELU}(\mathrm{standardize}(M\,(x * K(z)))) + b\).

    K(z) is drawn by `ContextMAGNet` from the maps z, one kernel a channel; M mixes the channels. While training,
    each channel is standardized over the batch, in evaluation by running moments; nothing scales or shifts it.

    Args:
        channels: of x and of z.
        size: of the kernels, odd.
        width, layers, frequency: of the slow network.
        generator: of the initial weights.

    Raises:
        ValueError: a kernel of even size.

    Source: Zhang (2024).

    >>> layer = HyperZZWLocal(4, 3)
    >>> layer(torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)).shape
    torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self, channels: int, size: int, *, width: int = 32, layers: int = 2, frequency: float | int = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if size % 2 == 0:
            raise ValueError(f"kernels of size {size} have no centre; take an odd size")
        settings = {"width": width, "layers": layers, "frequency": frequency}
        self.slow = ContextMAGNet(channels, size, **settings, generator=generator)
        self.mixer = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(self.mixer.weight, generator=generator)
        nn.init.zeros_(self.mixer.bias)
        self.standardize = nn.BatchNorm2d(channels, affine=False)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, z: Float[Tensor, "batch channels height width"], x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The maps x, convolved with kernels made of the maps z."""
        return F.gelu(self.standardize(self.mixer(hyperzzw_local(x, self.slow(z))))) + self.bias
