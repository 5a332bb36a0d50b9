"""A classifier with nothing to learn: fixed unit vectors, one a class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["FixedHead"]


class FixedHead(nn.Module):
    """Logits scale · cos(z, w_k) against fixed unit vectors w_k.

    The vectors are a buffer: no parameter, saved with the state. Rows allocated ahead for classes to come
    stay in the softmax and keep their place free.

    Args:
        vectors: unit rows (classes, dim), such as `gramian.linalg.manifold.frames` makes.
        scale: the inverse temperature, 1/τ.

    Raises:
        ValueError: rows that are not of norm 1 (to 1e-3), fewer than two, NaN, or a scale that is not positive.

    Source: "Equiangular Basis Vectors" (2023), equation 5; τ = 0.07 there.

    >>> from gramian.linalg.manifold import frames
    >>> head = FixedHead(frames.simplex(3), scale=10)
    >>> head(2 * frames.simplex(3)).argmax(-1)
    tensor([0, 1, 2])
    """

    vectors: Tensor

    def __init__(self, vectors: Float[Tensor, "classes dim"], scale: float | int = 1 / 0.07) -> None:
        super().__init__()
        norms = vectors.norm(dim=-1)
        if len(vectors) < 2 or not bool(((norms - 1).abs() <= 1e-3).all()):
            raise ValueError(
                f"a fixed head needs at least two rows of norm 1; got {len(vectors)} with norms from "
                f"{float(norms.min()):.3g} to {float(norms.max()):.3g}. Normalize them first"
            )
        if not scale > 0:
            raise ValueError(f"scale={scale} must be positive")
        self.register_buffer("vectors", vectors.detach().clone())
        self.scale = float(scale)

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch classes"]:
        return self.scale * nn.functional.normalize(z, dim=-1) @ self.vectors.mT

    def predict(self, z: Float[Tensor, "*batch dim"]) -> Int[Tensor, "*batch"]:
        """The class whose vector has the largest cosine with z."""
        return torch.argmax(self(z), dim=-1)

    def extra_repr(self) -> str:
        classes, dim = self.vectors.shape
        return f"classes={classes}, dim={dim}, scale={self.scale:.4g}"
