"""A vision transformer whose attention is linear and reads the patches both ways."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gramian.models.vision.deit import DeiT
from gramian.nn.state.lion import DECAYS, LION

__all__ = ["SIZES", "LionViT"]

SIZES = {
    "tiny": {"width": 192, "heads": 3, "neurons": 768},
    "small": {"width": 384, "heads": 6, "neurons": 1536},
    "base": {"width": 768, "heads": 12, "neurons": 3072},
}
"""The sizes of DeiT, as arguments of `LionViT`; each has 12 blocks."""


class LionViT(DeiT):
    """DeiT with `gramian.nn.state.lion.LION` in place of its attention, and the mean over tokens before the head.

    Args:
        size, patch, channels, classes, width, depth, heads, neurons: as of `gramian.models.vision.deit.DeiT`.
        decay: ``none``, ``constant``, ``selective`` (LION-Lit, -D, -S); ``softmax`` keeps the softmax, a baseline
            of equal size.
        curve: read the patches along a snake of rows and one of columns, instead of row by row.
        form, chunk: how the attention is computed; see `gramian.linalg.scan.bidirectional.bidirectional_scan`.
        deviation: of the initial weights, normal; biases start at 0. Narrow networks want more than the published
            0.02, about 1 / √width.
        generator: of the initial weights.

    Raises:
        ValueError: an unknown decay or form, a curve for softmax, sizes that do not fit.

    Source: Afzal et al., "Linear Attention for Efficient Bidirectional Sequence Modeling", 2025.

    >>> net = LionViT(8, 1, channels=1, classes=10, width=16, depth=1, heads=2, neurons=32, curve=True)
    >>> net(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self, size: int = 224, patch: int = 16, *, channels: int = 3, classes: int = 1000, width: int = 192,
        depth: int = 12, heads: int = 3, neurons: int = 768, decay: str = "selective", curve: bool = False,
        form: str = "chunk", chunk: int = 32, deviation: float = 0.02, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        if decay not in (*DECAYS, "softmax"):
            raise ValueError(f"decay={decay!r} is unknown; choose one of {', '.join((*DECAYS, 'softmax'))}")
        if curve and decay == "softmax":
            raise ValueError("curve=True changes nothing for softmax, whose tokens have no order; leave it out")
        sizes = {"channels": channels, "classes": classes, "width": width, "depth": depth}
        super().__init__(size, patch, **sizes, heads=heads, neurons=neurons)
        for block in self.blocks:
            if decay != "softmax":
                grid = size // patch if curve else None
                block.attention = LION(width, heads, decay, grid, True, form, chunk, generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=deviation, generator=generator)
                nn.init.zeros_(module.bias)
        for parameter in (self.token, self.place, self.patches.weight):
            nn.init.trunc_normal_(parameter, std=deviation, generator=generator)
        nn.init.zeros_(self.patches.bias)

    def forward(self, images: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: images whose patches are not as many as the places.
        """
        x = rearrange(self.patches(images), "b c h w -> b (h w) c")
        if x.shape[1] + 1 != self.place.shape[1]:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} have {x.shape[1]} patches; this network has places for "
                f"{self.place.shape[1] - 1}"
            )
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))
