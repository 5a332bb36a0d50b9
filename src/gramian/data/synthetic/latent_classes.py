"""Classes drawn from one distribution: a few hidden coordinates tell them apart, many others are nuisance."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LatentClasses"]


class LatentClasses:
    r"""An endless supply of classes that differ in the same hidden way, so that what one learns of some serves others.

    A class is a point \(z_c \sim N(0, I)\) in `hidden` axes, a sample is
    \(x = \tanh(\tfrac12 Q\,[z_c + s\,\epsilon,\; r\,\eta])\) with \(\epsilon, \eta\) standard normal and Q a fixed
    rotation: the nuisance \(\eta\) is wider than what matters, and the class is nowhere in a single coordinate.

    Args:
        dim: numbers of a sample.
        hidden: axes that carry the class.
        spread: s, of the samples of a class in the hidden axes.
        nuisance: r, of all other axes.
        generator: draws Q.

    Raises:
        ValueError: hidden outside 1 … dim, or a negative spread or nuisance.
    """

    def __init__(
        self,
        dim: int = 32,
        hidden: int = 6,
        spread: float = 0.25,
        nuisance: float = 1.5,
        generator: torch.Generator | None = None,
    ) -> None:
        if not 1 <= hidden <= dim:
            raise ValueError(f"hidden={hidden} must lie in 1 … dim={dim}")
        if spread < 0 or nuisance < 0:
            raise ValueError(f"spread={spread} and nuisance={nuisance} are standard deviations: at least zero")
        self.dim, self.hidden, self.spread, self.nuisance = dim, hidden, spread, nuisance
        self.rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q

    def classes(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "count hidden"]:
        """New classes: their hidden points."""
        return torch.randn(count, self.hidden, generator=generator)

    def samples(
        self, classes: Float[Tensor, "count hidden"], rows: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "samples dim"], Int[Tensor, " samples"]]:
        """`rows` samples of each class, and their labels."""
        labels = torch.arange(len(classes)).repeat_interleave(rows)
        inner = classes[labels] + self.spread * torch.randn(len(labels), self.hidden, generator=generator)
        outer = self.nuisance * torch.randn(len(labels), self.dim - self.hidden, generator=generator)
        return torch.tanh(torch.cat((inner, outer), 1) @ self.rotation / 2), labels
