r"""A linear layer of two factors: \(y = U (D x) + b\)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["LowRankLinear", "dense"]


class LowRankLinear(nn.Module):
    r"""\(y = U D x + b\), `down` D of (rank, in_features) and `up` U of (out_features, rank).

    It holds rank · (in + out) numbers, fewer than a dense layer only for ranks below
    \(\mathrm{in} \cdot \mathrm{out} / (\mathrm{in} + \mathrm{out})\) (`gramian.linalg.factor.lowrank.break_even_rank`).

    Args:
        in_features, out_features: as of `torch.nn.Linear`.
        rank: of the weight.
        bias: whether there is one.
        generator: for the initial factors, such that the product's entries have the variance of a dense layer's.

    Raises:
        ValueError: a rank outside [1, min(in_features, out_features)].

    >>> layer = LowRankLinear(6, 4, rank=2)
    >>> layer(torch.zeros(3, 6)).shape, layer.merged().weight.shape
    (torch.Size([3, 4]), torch.Size([4, 6]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= rank <= min(in_features, out_features):
            raise ValueError(f"rank={rank} is not between 1 and {min(in_features, out_features)}")
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        scale = (3 * in_features * rank) ** -0.25  # entries of a dense layer: uniform of variance 1 / (3 in)
        self.down = nn.Parameter(scale * torch.randn(rank, in_features, generator=generator))
        self.up = nn.Parameter(scale * torch.randn(out_features, rank, generator=generator))
        bound = 1 / math.sqrt(in_features)
        drawn = bound * (2 * torch.rand(out_features, generator=generator) - 1)
        self.bias = nn.Parameter(drawn) if bias else None

    @classmethod
    def from_factors(
        cls,
        up: Float[Tensor, "outputs rank"],
        down: Float[Tensor, "rank_too inputs"],
        bias: Float[Tensor, " outputs"] | None = None,
    ) -> LowRankLinear:
        """The layer of these factors (copied): such as those of a trained weight."""
        if up.shape[1] != down.shape[0]:
            raise ValueError(f"factors of ranks {up.shape[1]} and {down.shape[0]}")
        layer = cls(down.shape[1], up.shape[0], up.shape[1], bias=bias is not None)
        layer.to(device=up.device, dtype=up.dtype)
        with torch.no_grad():
            layer.up.copy_(up)
            layer.down.copy_(down)
            if bias is not None:
                layer.bias.copy_(bias)
        return layer

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The product of the factors."""
        return self.up @ self.down

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return nn.functional.linear(nn.functional.linear(x, self.down), self.up, self.bias)

    def merged(self) -> nn.Linear:
        """One dense layer of the same function."""
        with torch.no_grad():
            return dense(self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"


def dense(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer with copies of these."""
    shape = (weight.shape[1], weight.shape[0])
    layer = nn.Linear(*shape, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
