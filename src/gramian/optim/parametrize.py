"""Parametrizations of weights, for `torch.nn.utils.parametrize`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.manifold import orthogonal

__all__ = ["HouseholderLowRank"]


class HouseholderLowRank(nn.Module):
    """A weight that is scale · U Vᵀ with `rank` orthonormal columns in U and V, by Householder reflections.

    Its singular values are `scale`, `rank` times, and 0 for the rest, whatever the optimizer does: U and
    V are the first columns of products of `rank` reflections, whose vectors are what is learned. Assigning
    a weight starts from its leading singular vectors.

    Args:
        rank: columns kept.
        scale: the singular value.

    Raises:
        ValueError: a rank that does not fit the weight, NaN in it, or reflectors that become zero.

    Source: Song et al., "Householder Projector for Unsupervised Latent Semantics Discovery" (2023), section 3.

    >>> from torch.nn.utils import parametrize
    >>> layer = nn.Linear(6, 4)
    >>> _ = parametrize.register_parametrization(layer, "weight", HouseholderLowRank(2), unsafe=True)
    >>> torch.linalg.svdvals(layer.weight).detach().round(decimals=4) + 0.0
    tensor([1., 1., 0., 0.])
    """

    signs: Tensor

    def __init__(self, rank: int, scale: float | int = 1.0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank={rank} must be at least 1")
        self.rank = rank
        self.scale = float(scale)
        self.register_buffer("signs", torch.ones(rank))

    def forward(self, left: Float[Tensor, "out rank"], right: Float[Tensor, "in rank"]) -> Float[Tensor, "out in"]:
        """The weight from the reflectors of U and V."""
        U, V = (orthogonal.householder_product(vectors, columns=self.rank) for vectors in (left, right))
        return self.scale * (U * self.signs.to(U.dtype)) @ V.mT

    @torch.no_grad()
    def right_inverse(
        self, weight: Float[Tensor, "out in"]
    ) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "in rank"]]:
        """The reflectors of the leading singular vectors of a weight, as unit vectors."""
        if self.rank > min(weight.shape):
            raise ValueError(f"rank={self.rank} is larger than the least side of a {tuple(weight.shape)} weight")
        if not bool(torch.isfinite(weight).all()):
            raise ValueError("the weight holds NaN or infinity")
        U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
        left, left_signs = orthogonal.householder_vectors(U[:, : self.rank].contiguous())
        right, right_signs = orthogonal.householder_vectors(Vh[: self.rank].mT.contiguous())
        # reflections give each column up to its sign; only the product of the two signs is seen in U Vᵀ
        self.signs = (left_signs * right_signs).to(weight)
        return nn.functional.normalize(left, dim=0), nn.functional.normalize(right, dim=0)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, scale={self.scale:g}"
