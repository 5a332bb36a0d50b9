"""NormLin: tokens mixed by one learned row-stochastic matrix, in the place of attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.series.starts import redraw_

__all__ = ["NormLin", "NormLinLayer"]


class NormLin(nn.Module):
    r"""\(W_o\,(A\,W_v x)\) with A the rows of softplus(W), each divided by its sum.

    A does not depend on the input: this is attention with a fixed map, at half its operations.

    Args:
        tokens: how many there are; the matrix is tokens × tokens.
        channels: width of each.
        dropout: on the entries of A in training.
        generator: of the initial weights; W starts as identity plus standard normal noise.

    Raises:
        ValueError: a size below 1; another number of tokens.

    Source: OLinear (arXiv 2505.08550), section 4.2.

    >>> NormLin(tokens=5, channels=8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, tokens: int, channels: int, dropout: float = 0.0, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if min(tokens, channels) < 1:
            raise ValueError(f"{tokens=} and {channels=} must be at least 1")
        self.values, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        redraw_(self, generator)
        self.weight = nn.Parameter(torch.eye(tokens) + torch.randn(tokens, tokens, generator=generator))
        self.dropout = nn.Dropout(dropout)

    def mixing(self) -> Float[Tensor, "tokens tokens"]:
        """A: positive, rows sum to 1."""
        return F.normalize(F.softplus(self.weight), p=1.0, dim=-1)

    def forward(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        if x.shape[1] != len(self.weight):
            raise ValueError(f"{x.shape[1]} tokens were given to a matrix of {len(self.weight)}")
        return self.out(self.dropout(self.mixing()) @ self.values(x))


class NormLinLayer(nn.Module):
    """norm(x + NormLin(x)), then norm(h + feed_forward(h)) within each token.

    Args:
        hidden: width of the feed-forward layer.
        others: as in `NormLin`.
    """

    def __init__(
        self,
        tokens: int,
        channels: int,
        hidden: int,
        dropout: float = 0.0,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.mix = NormLin(tokens, channels, dropout, generator=generator)
        self.up, self.down = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        for layer in (self.up, self.down):
            redraw_(layer, generator)
        self.norm_mixed, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        x = self.norm_mixed(x + self.dropout(self.mix(x)))
        y = self.dropout(F.gelu(self.up(x)))
        return self.norm_out(x + self.dropout(self.down(y)))
