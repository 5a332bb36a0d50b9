"""Generative latent optimization: train a generator without an adversary, one free latent an image."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["LatentOptimization", "reconstruction_loss"]


class LatentOptimization(nn.Module):
    """A generator and the latents of its training images, to be optimized together.

    Args:
        generator: latents (batch, dim) → images.
        count: number of training images.
        dim: length of a latent.
        random: source of the first latents.

    Source: Bojanowski et al., "Optimizing the Latent Space of Generative Networks" (2018).
    """

    def __init__(self, generator: nn.Module, count: int, dim: int, random: torch.Generator | None = None) -> None:
        super().__init__()
        self.generator = generator
        self.latents = nn.Parameter(torch.randn(count, dim, generator=random))

    def forward(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch channels h w"]:
        """The images of the given training indices."""
        return self.generator(self.latents[index])

    def sample(self, count: int, random: torch.Generator | None = None) -> Float[Tensor, "count channels h w"]:
        """New images, from a Gaussian fitted to the latents."""
        centred = self.latents - self.latents.mean(0)
        covariance = centred.mT @ centred / (len(centred) - 1)
        factor = torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), dtype=covariance.dtype))
        noise = torch.randn(count, len(covariance), generator=random, dtype=covariance.dtype)
        return self.generator(self.latents.mean(0) + noise @ factor.mT)


def reconstruction_loss(
    module: LatentOptimization, index: Int[Tensor, " batch"], images: Float[Tensor, "batch channels h w"]
) -> Tensor:
    """The mean squared error of the images; for `gramian.optim.fit.fit` on (indices, images)."""
    return nn.functional.mse_loss(module(index), images)
