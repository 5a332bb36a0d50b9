"""A diffusion transformer (DiT), with dense weights or with gated components in their place."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.nn.factored import GatedSVDLinear, class_gate

__all__ = ["DiT", "grid_positions", "time_features"]


def time_features(t: Int[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    r"""\(\cos(t f_i), \sin(t f_i)\) with frequencies \(f_i = 10000^{-2i/\mathrm{width}}\), for an even width.

    >>> time_features(torch.tensor([0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    angles = t[:, None] * torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


def grid_positions(side: int, width: int) -> Float[Tensor, "places width"]:
    """Sines and cosines of row and column for a square grid; the width is a multiple of four."""
    rows, columns = (v.flatten() for v in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    return torch.cat([time_features(rows, width // 2), time_features(columns, width // 2)], 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int, linear: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = linear(width, 3 * width)
        self.output = linear(width, width)
        self.up = linear(width, ratio * width)
        self.down = linear(ratio * width, width)
        self.modulation = linear(width, 6 * width)

    def forward(
        self, x: Float[Tensor, "batch length width"], c: Float[Tensor, "batch width"], gate: Tensor | None
    ) -> Float[Tensor, "batch length width"]:
        parts = _apply(self.modulation, F.silu(c), gate)[:, None].chunk(6, -1)
        shift, scale, strength, shift_mlp, scale_mlp, strength_mlp = parts
        hidden = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        mixed = _apply(self.query_key_value, hidden, gate)
        q, k, v = rearrange(mixed, "b l (p h d) -> p b h l d", p=3, h=self.heads)
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b h l d -> b l (h d)")
        x = x + strength * _apply(self.output, mixed, gate)
        hidden = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_mlp) + shift_mlp
        hidden = F.gelu(_apply(self.up, hidden, gate), approximate="tanh")
        return x + strength_mlp * _apply(self.down, hidden, gate)


def _apply(layer: nn.Module, x: Tensor, gate: Tensor | None) -> Tensor:
    return layer(x, gate) if isinstance(layer, GatedSVDLinear) else layer(x)


class DiT(nn.Module):
    r"""\(\epsilon_\theta(x_t, t, c)\): patches, blocks whose norms are shifted, scaled and gated by time and class.

    The last modulation starts at zero, and so does the answer (adaLN-Zero).

    Args:
        size: side of the square images.
        channels: of the images.
        patch: side of a patch; it divides the image's.
        width: a multiple of four and of the heads.
        depth, heads, ratio: blocks, attention heads, and how much wider the hidden layer of the feed-forward part is.
        classes: how many classes have an embedding; one more stands for none (label −1).
        learn_variance: whether each entry has a second output, as in the released DiT models (it is not used by
            `DDPMPath`).
        common, per_class: components of every block's weights (`gramian.nn.factored.GatedSVDLinear`); common=None
            keeps dense weights. With components, the label also chooses the tailors.

    Raises:
        ValueError: sizes that do not divide.

    >>> DiT(size=8, channels=1, patch=2, width=16, depth=1, heads=2, classes=3)(
    ...     torch.zeros(2, 1, 8, 8), torch.tensor([0, 5]), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 8, 8])

    Source: Peebles & Xie (2023), section 3.2; the components: Xie et al. (2024), section 3.
    """

    def __init__(
        self, *, size: int = 32, channels: int = 4, patch: int = 2, width: int = 1024, depth: int = 24,
        heads: int = 16, ratio: int = 4, classes: int = 1000, learn_variance: bool = False,
        common: int | None = None, per_class: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if size % patch or width % heads or width % 4:
            raise ValueError(
                f"patch={patch} must divide size={size}; width={width} must be a multiple of heads={heads} and of 4"
            )
        self.size, self.channels, self.patch, self.width, self.classes = size, channels, patch, width, classes
        self.common, self.per_class = common, per_class

        def linear(inputs: int, outputs: int) -> nn.Module:
            if common is None:
                return nn.Linear(inputs, outputs)
            return GatedSVDLinear(inputs, outputs, common, per_class, classes)

        self.embedding = nn.Linear(channels * patch**2, width)
        self.place: Tensor
        self.register_buffer("place", grid_positions(size // patch, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes, width)
        self.unlabelled = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(_Block(width, heads, ratio, linear) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, (2 if learn_variance else 1) * channels * patch**2)
        zeroed = [self.modulation, self.head]
        for block in self.blocks:
            if common is None:
                zeroed.append(block.modulation)
            else:
                nn.init.zeros_(block.modulation.scale)
                nn.init.zeros_(block.modulation.bias)
        for layer in zeroed:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.label.weight, std=0.02)

    def gate(self, labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch components"]:
        """Which components serve each sample.

        Raises:
            ValueError: dense weights, or a label without tailors.
        """
        if self.common is None:
            raise ValueError("this network has dense weights: there is nothing to gate; give common= when building it")
        return class_gate(labels, self.common, self.per_class, self.classes).to(self.place)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], t: Int[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch outputs height width"]:  # fmt: skip
        """The noise in x.

        Args:
            t: times of the path.
            labels: classes, −1 or None for none.

        Raises:
            ValueError: images of another shape, or a label that is not there.
        """
        if tuple(x.shape[1:]) != (self.channels, self.size, self.size):
            raise ValueError(f"images of {tuple(x.shape[1:])}; needed is {(self.channels, self.size, self.size)}")
        labels = torch.full_like(t, -1) if labels is None else labels
        if int(labels.min()) < -1 or int(labels.max()) >= self.classes:
            raise ValueError(
                f"labels from {int(labels.min())} to {int(labels.max())}; there are 0 … {self.classes - 1}"
            )
        gate = None if self.common is None else self.gate(labels)
        tokens = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)
        hidden = self.embedding(tokens) + self.place
        told = torch.where((labels < 0)[:, None], self.unlabelled, self.label(labels.clamp(min=0)))
        condition = self.time(time_features(t, 256).to(hidden)) + told
        for block in self.blocks:
            hidden = block(hidden, condition, gate)
        shift, scale = self.modulation(F.silu(condition))[:, None].chunk(2, -1)
        hidden = self.head(F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return rearrange(
            hidden, "b (h w) (c p q) -> b c (h p) (w q)", h=self.size // self.patch, p=self.patch, q=self.patch
        )
