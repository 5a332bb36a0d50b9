"""Residual blocks whose branch has a multiplier, and activations without a mean."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Centred", "ResidualBlock"]

ACTIVATIONS = {"relu": torch.relu, "abs": torch.abs, "tanh": torch.tanh, "linear": lambda h: h}


class Centred(nn.Module):
    r"""\(\varphi(h) - \overline{\varphi(h)}\), the mean taken over the features of each sample.

    Without the mean, the branches of a deep network add up along one direction.

    Args:
        activation: ``relu``, ``abs``, ``tanh`` or ``linear``.

    Raises:
        ValueError: an unknown activation.

    Source: Yang et al., "Tensor Programs VI" (2023), section 2.

    >>> Centred("abs")(torch.tensor([[-1.0, 3.0]]))
    tensor([[-1.,  1.]])
    """

    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        self.activation = activation

    def forward(self, h: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        h = ACTIVATIONS[self.activation](h)
        return h - h.mean(-1, keepdim=True)

    def extra_repr(self) -> str:
        return self.activation


class ResidualBlock(nn.Module):
    """x + multiplier · branch(x).

    Args:
        branch: a module whose output has its input's shape.
        multiplier: of the branch; not trained.

    Raises:
        ValueError: a multiplier that is not finite.

    >>> ResidualBlock(nn.Identity(), 0.5)(torch.tensor([2.0]))
    tensor([3.])
    """

    def __init__(self, branch: nn.Module, multiplier: float | int = 1.0) -> None:
        super().__init__()
        if not math.isfinite(multiplier):
            raise ValueError(f"multiplier={multiplier} must be finite")
        self.branch = branch
        self.multiplier = float(multiplier)

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        return x + self.multiplier * self.branch(x)

    def extra_repr(self) -> str:
        return f"multiplier={self.multiplier:g}"
