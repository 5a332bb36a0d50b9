"""Directions of a latent space: found in closed form in the weights, and measured by how far they move the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["path_length", "semantic_directions"]


def semantic_directions(
    weights: Float[Tensor, "out dim"] | Sequence[Tensor], count: int | None = None
) -> tuple[Float[Tensor, "dim count"], Float[Tensor, " count"]]:
    """The latent directions that a layer amplifies most: eigenvectors of AᵀA, as columns, and their eigenvalues.

    Args:
        weights: the matrix A that reads the latents, or several that read the same ones (their AᵀA add up).
        count: how many; all by default.

    Raises:
        ValueError: more directions asked than the latents have axes.

    Source: Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs" (SeFa, 2021), equation 6.

    >>> directions, strength = semantic_directions(torch.diag(torch.tensor([1.0, 3.0])), count=1)
    >>> directions.abs().T, strength
    (tensor([[0., 1.]]), tensor([9.]))
    """
    matrices = [weights] if isinstance(weights, Tensor) else list(weights)
    gram = sum(A.mT @ A for A in matrices)
    dim = gram.shape[-1]
    count = dim if count is None else count
    if not 1 <= count <= dim:
        raise ValueError(f"count={count} is not between 1 and {dim}, the length of the latents")
    values, vectors = torch.linalg.eigh(gram)
    return vectors[:, -count:].flip(-1), values[-count:].flip(-1)


def path_length(
    generate: Callable[[Tensor], Tensor],
    latents: Float[Tensor, "batch dim"],
    directions: Float[Tensor, "dim count"],
    *,
    step: float = 1e-2,
    features: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, " count"]:
    """The squared speed of the output along each direction: E ‖f(G(w + εd)) − f(G(w))‖² / ε².

    Its mean over a set of interpretable directions is the perceptual interpretable path length (PIPL); over
    random directions, the perceptual path length (PPL).

    Args:
        generate: latents → outputs.
        directions: unit columns.
        step: ε.
        features: outputs → features in which distance is meant; the outputs themselves by default.
    """

    def read(w: Tensor) -> Tensor:
        out = generate(w)
        return (out if features is None else features(out)).flatten(1)

    with torch.no_grad():
        start = read(latents)
        speeds = [((read(latents + step * d) - start) / step).square().sum(1).mean() for d in directions.unbind(-1)]
    return torch.stack(speeds)
