"""A small vision transformer with ReLU feed-forward layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.mlp import TopKMLP

__all__ = ["TinyViT"]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, neurons: int, k: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.mlp = TopKMLP(width, neurons, k)

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        parts = rearrange(self.query_key_value(self.norms[0](x)), "b l (p h d) -> p b h l d", p=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.output(rearrange(mixed, "b h l d -> b l (h d)"))
        return x + self.mlp(self.norms[1](x))


class TinyViT(nn.Module):
    """A vision transformer: patches, learned places, pre-norm blocks, the mean over tokens, a linear head.

    Args:
        size: height and width of the images.
        patch: height and width of a patch; they divide the image.
        channels, classes: of the images and the answer.
        width, depth, heads, neurons: of the stream, the blocks, the attention, the feed-forward layers.
        k: how many ReLU outputs each token keeps; None keeps all.

    Raises:
        ValueError: patches that do not tile the image, or heads that do not divide the width.

    >>> TinyViT((8, 8), (1, 8))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, size: tuple[int, int], patch: tuple[int, int], *, channels: int = 1, classes: int = 10, width: int = 32,
        depth: int = 2, heads: int = 4, neurons: int = 128, k: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if size[0] % patch[0] or size[1] % patch[1]:
            raise ValueError(f"patches of {patch} do not tile images of {size}; each side must divide")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.size, self.patch = size, patch
        tokens = (size[0] // patch[0]) * (size[1] // patch[1])
        self.embedding = nn.Linear(channels * patch[0] * patch[1], width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.ModuleList(_Block(width, heads, neurons, k) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: images of another size.
        """
        if tuple(images.shape[2:]) != self.size:
            raise ValueError(f"the images are {tuple(images.shape[2:])}; this network reads {self.size}")
        patches = rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch[0], q=self.patch[1])
        x = self.embedding(patches) + self.place
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))
