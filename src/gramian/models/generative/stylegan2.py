"""The StyleGAN2 generator: a mapping network, modulated convolutions, noise, and a sum of RGB skips."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["EqualizedLinear", "ModulatedConv", "StyleGAN2Generator"]


class EqualizedLinear(nn.Module):
    """A linear layer whose weight is stored with unit variance and scaled at run time.

    Args:
        bias: initial value of the bias.
        rate: learning-rate multiplier: weight and bias are stored divided by it.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.gain, self.rate = rate / math.sqrt(inputs), rate

    @property
    def matrix(self) -> Float[Tensor, "outputs inputs"]:
        """The weight as it acts."""
        return self.weight * self.gain

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return functional.linear(x, self.matrix, self.bias * self.rate)


def _activate(x: Tensor, bias: Tensor) -> Tensor:
    return functional.leaky_relu(x + bias.view(-1, 1, 1), 0.2) * math.sqrt(2)


def _blur(x: Tensor, pad: tuple[int, int], gain: float) -> Tensor:
    """Filter with the outer product of [1, 3, 3, 1]/8, times `gain`."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    channels = x.shape[1]
    x = functional.pad(x, (*pad, *pad))
    x = functional.conv2d(x, (gain * taps).view(1, 1, 1, 4).expand(channels, 1, 1, 4), groups=channels)
    return functional.conv2d(x, taps.view(1, 1, 4, 1).expand(channels, 1, 4, 1), groups=channels)


def upsample(x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h2 w2"]:
    """Twice the resolution: zeros between the pixels, then the [1, 3, 3, 1] filter."""
    batch, channels, h, w = x.shape
    spread = x.new_zeros(batch, channels, h, 2, w, 2)
    spread[:, :, :, 0, :, 0] = x
    return _blur(spread.view(batch, channels, 2 * h, 2 * w), (2, 1), 4.0)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, and its outputs normalized to unit variance.

    Scaling the input and the output is the same as scaling the weight per sample, and needs no weight per
    sample.

    Args:
        demodulate: whether to normalize: y / √Σ(w·s)².
        up: whether to double the resolution.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style_size: int, *, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.affine = EqualizedLinear(style_size, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs * kernel**2)
        self.demodulate, self.up = demodulate, up

    def forward(
        self, x: Float[Tensor, "batch inputs h w"], style: Float[Tensor, "batch style"]
    ) -> Float[Tensor, "batch outputs h2 w2"]:
        scale = self.affine(style)
        weight = self.weight * self.gain
        x = x * scale[:, :, None, None]
        if self.up:
            x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = _blur(x, (1, 1), 4.0)
        else:
            x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            norm = torch.rsqrt(scale.square() @ weight.square().sum((2, 3)).mT + 1e-8)
            x = x * norm[:, :, None, None]
        return x


class _StyledConv(nn.Module):
    """A modulated convolution, noise of a learned strength, bias and activation."""

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, style_size: int, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_size, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise", torch.randn(1, 1, size, size))

    def forward(self, x: Tensor, style: Tensor, generator: torch.Generator | None) -> Tensor:
        x = self.conv(x, style)
        noise = self.noise
        if generator is not None:
            noise = torch.randn(len(x), *noise.shape[1:], generator=generator, dtype=noise.dtype).to(noise.device)
        return _activate(x + self.strength * noise, self.bias)


class _ToImage(nn.Module):
    """A 1 × 1 modulated convolution to the image's channels, without normalization."""

    def __init__(self, inputs: int, image_channels: int, style_size: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, image_channels, 1, style_size, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(image_channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(x, style) + self.bias.view(-1, 1, 1)


class StyleGAN2Generator(nn.Module):
    """The skip generator of StyleGAN2: latents (batch, style_size) → images (batch, image_channels, size, size).

    Args:
        resolution: a power of two, at least 4.
        style_size: length of z and w.
        mapping_layers: fully connected layers from z to w.
        channels: feature channels by resolution, as resolution → channels; by default those of the FFHQ
            model, min(512, 32768 / resolution).
        image_channels: 3 for colour.

    Raises:
        ValueError: a resolution that is not a power of two from 4.

    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), configuration F.

    >>> generator = StyleGAN2Generator(8, style_size=16, mapping_layers=2, channels={4: 8, 8: 8}, image_channels=1)
    >>> generator(torch.randn(2, 16)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        resolution: int = 1024,
        style_size: int = 512,
        mapping_layers: int = 8,
        channels: dict[int, int] | None = None,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if resolution < 4 or resolution & (resolution - 1):
            raise ValueError(f"resolution={resolution} is not a power of two from 4")
        sizes = [2**k for k in range(2, resolution.bit_length())]
        width = channels or {size: min(512, 32768 // size) for size in sizes}
        self.resolution, self.style_size = resolution, style_size
        self.mapping = nn.ModuleList(EqualizedLinear(style_size, style_size, rate=0.01) for _ in range(mapping_layers))
        self.constant = nn.Parameter(torch.randn(1, width[4], 4, 4))
        self.convs = nn.ModuleList([_StyledConv(width[4], width[4], 4, style_size, up=False)])
        self.images = nn.ModuleList([_ToImage(width[4], image_channels, style_size)])
        for small, size in pairwise(sizes):
            self.convs.append(_StyledConv(width[small], width[size], size, style_size, up=True))
            self.convs.append(_StyledConv(width[size], width[size], size, style_size, up=False))
            self.images.append(_ToImage(width[size], image_channels, style_size))

    @property
    def num_styles(self) -> int:
        """Styles that `synthesize` reads: one a convolution, and one for the last image layer."""
        return len(self.convs) + 1

    def map(self, z: Float[Tensor, "batch style"]) -> Float[Tensor, "batch style"]:
        """Z → w."""
        z = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            z = functional.leaky_relu(layer(z), 0.2) * math.sqrt(2)
        return z

    def synthesize(
        self,
        styles: Float[Tensor, "batch style"] | Float[Tensor, "batch layers style"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channels h w"]:
        """w, one for all layers or one a layer (`num_styles` of them), → images.

        Args:
            generator: draws fresh noise; without it, the fixed noise that belongs to the model.
        """
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, self.num_styles, -1)
        if styles.shape[1] != self.num_styles:
            raise ValueError(f"got styles for {styles.shape[1]} layers; this generator reads {self.num_styles}")
        x = self.convs[0](self.constant.expand(len(styles), -1, -1, -1), styles[:, 0], generator)
        image = self.images[0](x, styles[:, 1])
        for level, to_image in enumerate(list(self.images)[1:]):
            first = 2 * level + 1
            x = self.convs[first](x, styles[:, first], generator)
            x = self.convs[first + 1](x, styles[:, first + 1], generator)
            image = upsample(image) + to_image(x, styles[:, first + 2])
        return image

    def forward(
        self, z: Float[Tensor, "batch style"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch channels h w"]:
        """Z → images."""
        return self.synthesize(self.map(z), generator)
