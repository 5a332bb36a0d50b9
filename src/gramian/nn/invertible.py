r"""Invertible networks of affine couplings: a map, its inverse, and how much it stretches volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

__all__ = ["InvertibleNet"]

LARGEST = 5.0
"""Bound of the logarithm of a coupling's scale."""


def _noise(*shape: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(*shape, generator=generator)


class _Conditioner(nn.Module):
    """Half of the channels → shift and log-scale of the other half."""

    def __init__(self, half: int, hidden: int, image: bool, generator: torch.Generator | None) -> None:
        super().__init__()

        def layer(into: int, out: int, reach: int, gain: float) -> nn.Module:
            made = nn.Conv2d(into, out, reach, padding=reach // 2) if image else nn.Linear(into, out)
            fan_in = made.weight[0].numel()
            with torch.no_grad():
                made.weight.copy_(_noise(*made.weight.shape, generator=generator) * gain / fan_in**0.5)
                made.bias.copy_(_noise(out, generator=generator) * 0.1 * gain)
            return made

        self.layers = nn.Sequential(
            layer(half, hidden, 3, 1.4), nn.SiLU(), layer(hidden, hidden, 1, 1.4), nn.SiLU(),
            layer(hidden, 2 * half, 3, 0.3),
        )  # fmt: skip
        with torch.no_grad():  # scales multiply up over the blocks: they start near 1
            for p in self.layers[-1].parameters():
                p[half:] *= 0.3

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self.layers(x).chunk(2, 1)
        return shift, LARGEST * torch.tanh(log_scale / LARGEST)


class _Block(nn.Module):
    """Normalization of each channel, two couplings, and a mixing of the channels; all along axis 1."""

    def __init__(self, channels: int, hidden: int, image: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        half = channels // 2
        self.bias, self.log_scale = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.first, self.second = (_Conditioner(half, hidden, image, generator) for _ in range(2))
        self.mix = nn.Parameter(torch.linalg.qr(_noise(channels, channels, generator=generator)).Q)
        self.axes = (-1, 1, 1) if image else (-1,)

    def _mixed(self, x: Tensor, matrix: Tensor) -> Tensor:
        return x @ matrix.mT if x.ndim == 2 else torch.conv2d(x, matrix[:, :, None, None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and each sample's log |det| of the Jacobian."""
        x = (x + self.bias.view(self.axes)) * self.log_scale.view(self.axes).exp()
        a, b = x.chunk(2, 1)
        shift, scale_a = self.first(b)
        a = (a + shift) * scale_a.exp()
        shift, scale_b = self.second(a)
        b = (b + shift) * scale_b.exp()
        x = self._mixed(torch.cat([a, b], 1), self.mix)
        places = x[0, 0].numel()
        fixed = places * (self.log_scale.sum() + torch.linalg.slogdet(self.mix)[1])
        return x, scale_a.flatten(1).sum(1) + scale_b.flatten(1).sum(1) + fixed

    def inverse(self, y: Tensor) -> Tensor:
        a, b = self._mixed(y, torch.linalg.inv(self.mix)).chunk(2, 1)
        shift, scale = self.second(a)
        b = b * (-scale).exp() - shift
        shift, scale = self.first(b)
        a = a * (-scale).exp() - shift
        x = torch.cat([a, b], 1)
        return x * (-self.log_scale.view(self.axes)).exp() - self.bias.view(self.axes)


class InvertibleNet(nn.Module):
    r"""A network g with an exact inverse, from samples of one shape to flat latents of as many numbers.

    Each block normalizes the channels, updates one half of them with a shift and a scale read off the other half,
    \(a \leftarrow (a + t(b))\, e^{s(b)}\), then the other way round, and mixes the channels by a matrix (orthogonal at
    the start). \(|s| < 5\) by a smooth bound.

    Args:
        shape: a sample's shape: (features,), or (channels, height, width).
        blocks: how many.
        hidden: units of the networks that read shift and scale; convolutions 3 × 3 for images.
        squeeze: images only: every 2 × 2 patch becomes four channels first.
        generator: source of the initial weights.

    Raises:
        ValueError: another kind of shape, an odd number of channels (after squeezing), sides that cannot be squeezed,
            or sizes below 1.

    Source: Berman, Hallak & Shocher (2025), appendix on invertible networks; Dinh et al. (2017); Kingma & Dhariwal
    (2018).

    >>> g = InvertibleNet((2,), blocks=2, generator=torch.Generator().manual_seed(0)).double()
    >>> x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    >>> bool((g.inverse(g(x)) - x).abs().max() < 1e-12)
    True
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        blocks: int = 6,
        hidden: int = 32,
        squeeze: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = tuple(shape)
        if len(shape) not in (1, 3):
            raise ValueError(f"shape={shape} must be (features,) or (channels, height, width)")
        if min(*shape, blocks, hidden) < 1:
            raise ValueError(f"shape={shape}, blocks={blocks}, hidden={hidden}: all must be at least 1")
        image, channels = len(shape) == 3, shape[0]
        if squeeze:
            if not image or shape[1] % 2 or shape[2] % 2:
                raise ValueError(f"squeeze=True needs images of even height and width, not samples of shape {shape}")
            channels *= 4
        if channels % 2:
            raise ValueError(
                f"{channels} channels cannot be halved: give an even number"
                + (", or squeeze=True for images of even sides" if image else " (append a constant feature)")
            )
        self.shape, self.squeeze = shape, squeeze
        self.inner = (channels, shape[1] // 2, shape[2] // 2) if squeeze else shape
        self.blocks = nn.ModuleList(_Block(channels, hidden, image, generator) for _ in range(blocks))

    @property
    def features(self) -> int:
        """Numbers in a sample, and in its latent."""
        return int(torch.Size(self.shape).numel())

    def _open(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"samples of shape {tuple(x.shape[1:])}: this network reads {self.shape}")
        return pixel_unshuffle(x, 2) if self.squeeze else x

    @torch.no_grad()
    def initialize(self, x: Float[Tensor, "batch *shape"]) -> None:
        """Set every block's normalization so that its channels have mean 0 and variance 1 on this batch.

        Raises:
            ValueError: samples of another shape, fewer than two numbers a channel, or a constant channel.
        """
        x = self._open(x)
        for block in self.blocks:
            spread, mean = torch.std_mean(x.transpose(0, 1).flatten(1), dim=1)
            if not bool((spread > 0).all()):
                raise ValueError("a channel is constant on this batch (or holds one number): give more samples")
            block.bias.copy_(-mean)
            block.log_scale.copy_(-spread.log())
            x = block(x)[0]

    def forward_log_det(
        self, x: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch"]]:
        r"""Latents g(x), and \(\log |\det \partial g / \partial x|\) of each sample.

        Raises:
            ValueError: samples of another shape.
        """
        x = self._open(x)
        total = x.new_zeros(len(x))
        for block in self.blocks:
            x, log_det = block(x)
            total = total + log_det
        return x.flatten(1), total

    def forward(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch features"]:
        """Latents g(x).

        Raises:
            ValueError: samples of another shape.
        """
        return self.forward_log_det(x)[0]

    def inverse(self, latents: Float[Tensor, "batch features"]) -> Float[Tensor, "batch *shape"]:
        """The samples whose latents these are.

        Raises:
            ValueError: latents of another width.
        """
        if latents.shape[1] != self.features:
            raise ValueError(f"latents of width {latents.shape[1]}: this network's have {self.features}")
        x = latents.unflatten(1, self.inner)
        for block in reversed(self.blocks):
            x = block.inverse(x)
        return pixel_shuffle(x, 2) if self.squeeze else x
