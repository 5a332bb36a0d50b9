r"""A layer of filters, their answers cubed: the network of analyses of how features are learned from patches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CubicPatchNet"]


class CubicPatchNet(nn.Module):
    r"""Scores \(F_k(x) = \sum_{j} \sum_p (\langle w_{kj}, x_p\rangle + b_{kj})^3\), a class's filters over all patches.

    Args:
        dim: numbers of a patch.
        filters: of each class.
        classes: scores that come out.
        scale: of the initial weights, uniform in ±scale/√dim; small ones make the cubes learn one feature first.
        generator: draws them; without one torch's global generator.

    Raises:
        ValueError: sizes below 1, or a scale that is not positive.

    Source: Deng, Yang, Mirzasoleiman and Gu (2023), equation 2.2; their released code has the biases.
    """

    def __init__(
        self,
        dim: int,
        filters: int = 20,
        classes: int = 2,
        scale: float | int = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(dim, filters, classes) < 1:
            raise ValueError(f"dim={dim}, filters={filters}, classes={classes} must be at least 1")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale={scale} must be positive and finite")
        self.classes = classes
        reach = scale / dim**0.5
        self.weight = nn.Parameter((2 * torch.rand(classes * filters, dim, generator=generator) - 1) * reach)
        self.bias = nn.Parameter((2 * torch.rand(classes * filters, generator=generator) - 1) * reach)

    def forward(self, x: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch classes"]:
        answers = torch.nn.functional.linear(x, self.weight, self.bias)
        return (answers * answers.square()).sum(1).unflatten(1, (self.classes, -1)).sum(2)
