"""The vision transformer of DeiT, built of modules throughout: products and softmax as well can be replaced."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["DeiT", "MatMul"]


class MatMul(nn.Module):
    """A product of batched matrices, as a module."""

    def forward(
        self, a: Float[Tensor, "*batch rows inner"], b: Float[Tensor, "*batch inner columns"]
    ) -> Float[Tensor, "*batch rows columns"]:
        return a @ b


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.scores, self.softmax, self.mix = MatMul(), nn.Softmax(-1), MatMul()
        self.output = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        query, key, value = rearrange(self.query_key_value(x), "b l (p h d) -> p b h l d", p=3, h=self.heads)
        weights = self.softmax(self.scores(query * query.shape[-1] ** -0.5, key.mT))
        return self.output(rearrange(self.mix(weights, value), "b h l d -> b l (h d)"))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, neurons: int) -> None:
        super().__init__()
        self.first_norm, self.attention = nn.LayerNorm(width, eps=1e-6), _Attention(width, heads)
        self.second_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, neurons), nn.GELU(), nn.Linear(neurons, width))

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        x = x + self.attention(self.first_norm(x))
        return x + self.mlp(self.second_norm(x))


class DeiT(nn.Module):
    """Patches, a class token, learned places, pre-norm blocks with GELU, a linear head; the defaults are DeiT-Ti.

    Args:
        size, patch: sides of the square images and of their patches.
        channels, classes: of the images and the answer.
        width, depth, heads, neurons: of the stream, the blocks, the attention, the feed-forward layers.

    Raises:
        ValueError: patches that do not tile the image, or heads that do not divide the width.

    Source: Touvron et al., Training data-efficient image transformers (2021), table 1.

    >>> DeiT(8, 2, channels=1, classes=10, width=16, depth=1, heads=2, neurons=32)(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self, size: int = 224, patch: int = 16, *, channels: int = 3, classes: int = 1000, width: int = 192,
        depth: int = 12, heads: int = 3, neurons: int = 768,
    ) -> None:  # fmt: skip
        super().__init__()
        if size % patch:
            raise ValueError(f"patches of {patch} do not tile images of {size}")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(_Block(width, heads, neurons) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch classes"]:
        x = rearrange(self.patches(images), "b c h w -> b (h w) c")
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])
