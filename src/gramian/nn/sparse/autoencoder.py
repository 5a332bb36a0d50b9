"""A sparse autoencoder: activations as sums of few directions out of many."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SparseAutoencoder"]


class SparseAutoencoder(nn.Module):
    r"""\(c = \mathrm{ReLU}((x - b) E + e)\), \(\hat x = c D + b\) with rows of D of length one.

    Args:
        width: of the activations.
        features: directions to learn, usually more than `width`.
        generator: draws the directions; the encoder starts as their transpose.

    Raises:
        ValueError: sizes below one.

    Source: Cunningham et al., "Sparse Autoencoders Find Highly Interpretable Features" (2023), section 2.
    """

    def __init__(self, width: int, features: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if width < 1 or features < 1:
            raise ValueError(f"width={width}, features={features}: at least one of each")
        start = nn.functional.normalize(torch.randn(features, width, generator=generator), dim=1)
        self.directions = nn.Parameter(start)
        self.encoder = nn.Parameter(start.T.clone())
        self.threshold = nn.Parameter(torch.zeros(features))
        self.centre = nn.Parameter(torch.zeros(width))

    @property
    def decoder(self) -> Float[Tensor, "features width"]:
        """The directions, of length one."""
        return nn.functional.normalize(self.directions, dim=1)

    def encode(self, x: Float[Tensor, "samples width"]) -> Float[Tensor, "samples features"]:
        """How much of each direction a sample holds; mostly zeros."""
        return torch.relu((x - self.centre) @ self.encoder + self.threshold)

    def forward(self, x: Float[Tensor, "samples width"]) -> Float[Tensor, "samples width"]:
        """The sample rebuilt from its code."""
        return self.encode(x) @ self.decoder + self.centre

    def loss(self, x: Float[Tensor, "samples width"], sparsity: float | int) -> Float[Tensor, ""]:
        r"""\(\operatorname{mean}\|x - \hat x\|^2 + \lambda \operatorname{mean}\|c\|_1\), λ = `sparsity`."""
        codes = self.encode(x)
        rebuilt = codes @ self.decoder + self.centre
        return (x - rebuilt).square().sum(1).mean() + sparsity * codes.sum(1).mean()
