"""The slow network: kernels drawn over a grid of coordinates by products of sines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ContextMAGNet", "MAGNet", "grid"]


def grid(size: int, dimensions: int = 2) -> Float[Tensor, "places dimensions"]:
    """Coordinates of a regular grid over [-1, 1] in each dimension, the last one running fastest.

    Raises:
        ValueError: a size or a number of dimensions below 1.

    >>> grid(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    if size < 1 or dimensions < 1:
        raise ValueError(f"size={size}, dimensions={dimensions}: both must be at least 1")
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size)] * dimensions, indexing="ij")
    return torch.stack([a.reshape(-1) for a in axes], dim=-1)


def uniform(layer: nn.Linear, bias: float, generator: torch.Generator | None) -> nn.Linear:
    """Weights uniform with variance 1 / inputs, and one value for the biases."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear", generator=generator)
    nn.init.constant_(layer.bias, bias)
    return layer


class MAGNet(nn.Module):
    r"""Kernels over a grid of coordinates c, as products of sines of them.

    \(h_0 = \sin(F_0 c)\), \(h_i = \sin(F_i c) \odot (L_i h_{i-1}) + p\), and the kernels are \(O h\). The frequencies
    \(F_i\) are scaled by draws of the gamma distribution of shape \(6 / (i + 1)\), so that the first filters are the
    finest; p is a plane that all features share. The weights of O are divided, once, by the square root of the number
    of coordinates, which makes a product with the kernel a mean rather than a sum.

    Args:
        outputs: kernels.
        size: places along each dimension.
        dimensions: of the grid.
        width: features h.
        layers: products of sines.
        frequency: scales all F; at 1 the finest filters turn some four times over the grid.
        generator: of the initial weights.

    Raises:
        ValueError: sizes below 1, or a frequency that is not positive.

    Source: Zhang, "HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction" (2024),
    with the released code's initial weights; the network is that of Romero et al., "FlexConv" (2021).

    >>> MAGNet(3, 8)().shape
    torch.Size([3, 8, 8])
    """

    def __init__(
        self, outputs: int, size: int, *, dimensions: int = 2, width: int = 32, layers: int = 2,
        frequency: float | int = 1.0, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(outputs, width, layers) < 1:
            raise ValueError(f"outputs={outputs}, width={width}, layers={layers}: each must be at least 1")
        if not (frequency > 0 and math.isfinite(frequency)):
            raise ValueError(f"frequency={frequency} must be positive and finite")
        self.shape = (outputs, *(size,) * dimensions)
        coordinates = grid(size, dimensions)
        self.register_buffer("coordinates", coordinates, persistent=False)
        self.filters = nn.ModuleList(nn.Linear(dimensions, width) for _ in range(layers + 1))
        for i, layer in enumerate(self.filters):
            scale = torch._standard_gamma(torch.full((width, dimensions), 6.0 / (i + 1)), generator=generator)
            with torch.no_grad():
                layer.weight.uniform_(-1, 1, generator=generator)
                layer.weight.mul_(2 * math.pi * float(frequency) * scale / math.sqrt(dimensions))
                layer.bias.zero_()
        self.mixes = nn.ModuleList(uniform(nn.Linear(width, width), 1.0, generator) for _ in range(layers))
        self.output = uniform(nn.Linear(width, outputs), 0.0, generator)
        with torch.no_grad():
            self.output.weight.mul_(len(coordinates) ** -0.5)
        self.plane = nn.Parameter(torch.zeros(len(coordinates), 1))

    def waves(self) -> list[Float[Tensor, "places width"]]:
        """The sines of every layer."""
        return [torch.sin(layer(self.coordinates)) for layer in self.filters]

    def finish(self, h: Float[Tensor, "places width"]) -> Tensor:
        """Features to kernels, on the grid."""
        return self.output(h).T.reshape(self.shape)

    def forward(self) -> Tensor:
        """The kernels, (outputs, size, …, size)."""
        first, *others = self.waves()
        h = first
        for wave, mix in zip(others, self.mixes, strict=True):
            h = wave * mix(h) + self.plane
        return self.finish(h)


class ContextMAGNet(MAGNet):
    r"""`MAGNet` whose features are gated by the maps that its kernels will meet: one small kernel a channel.

    The maps are pooled to the kernel's size and averaged over the batch, \(z = \mathrm{GELU}(M R\,\bar x)\). After
    every product the features are renormalized, \(h \leftarrow \alpha\,\mathrm{sg}(h) + \beta\,h / \lVert h\rVert\),
    each over the grid, and multiplied by \(G_i z\). The stop sg keeps all gradients in the direction of h.

    A kernel that depends on the batch would make an answer depend on its neighbours. So running means of the pooled
    maps are kept while training and used in evaluation, as batch normalization does.

    Args:
        channels: of the maps, and kernels.
        size: of the kernels.
        momentum: share of a new batch in the running mean.
        settings: width, layers, frequency, generator of `MAGNet`.

    Source: Zhang (2024), and the released code; the running mean is ours.

    >>> ContextMAGNet(4, 3)(torch.ones(2, 4, 8, 8)).shape
    torch.Size([4, 3, 3])
    """

    def __init__(
        self, channels: int, size: int, *, width: int = 32, layers: int = 2, frequency: float | int = 1.0,
        momentum: float = 0.1, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(channels, size, width=width, layers=layers, frequency=frequency, generator=generator)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} must be in (0, 1]")
        self.momentum = momentum
        self.reduce = uniform(nn.Linear(channels, width), 0.0, generator)
        self.mix = uniform(nn.Linear(width, width), 0.0, generator)
        self.gates = nn.ModuleList(uniform(nn.Linear(width, width), 1.0, generator) for _ in range(layers))
        self.alpha = nn.Parameter(torch.ones(layers, width))
        self.beta = nn.Parameter(torch.full((layers, width), 0.1))
        self.register_buffer("running", torch.zeros(channels, size, size))

    def context(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "channels size size"]:
        """The pooled maps: of this batch while training, their running mean otherwise."""
        if not self.training:
            return self.running
        pooled = F.adaptive_avg_pool2d(x, self.shape[-1]).mean(0)
        self.running.lerp_(pooled.detach().to(self.running.dtype), self.momentum)
        return pooled

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "channels size size"]:
        """Kernels for these maps.

        Raises:
            ValueError: another number of channels.
        """
        if x.shape[1] != self.shape[0]:
            raise ValueError(f"maps of {x.shape[1]} channels; these kernels are for {self.shape[0]}")
        z = F.gelu(self.mix(self.reduce(self.context(x).flatten(1).T)))
        h, *others = self.waves()
        for i, (wave, mix, gate) in enumerate(zip(others, self.mixes, self.gates, strict=True)):
            h = wave * mix(h) + self.plane
            h = (self.alpha[i] * h.detach() + self.beta[i] * F.normalize(h, dim=0)) * gate(z)
        return self.finish(h)
