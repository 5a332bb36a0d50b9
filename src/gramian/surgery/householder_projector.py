"""The Householder projector: make the layers that read a latent orthogonal and of low rank."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gramian.linalg.manifold import orthogonal
from gramian.models.generative.stylegan2 import EqualizedLinear
from gramian.optim.parametrize import HouseholderLowRank
from gramian.surgery.swap import Handle, swap

__all__ = ["directions", "project"]


def project(model: nn.Module, layers: str | Iterable[str], rank: int = 10, scale: float | int | str = 1.0) -> Handle:
    """Replace linear layers by ones of weight scale · U Vᵀ, `rank` orthonormal columns each, to be fine-tuned.

    U and V start as the leading singular vectors of the trained weight and stay orthonormal under any
    optimizer (`HouseholderLowRank`); biases are kept. `gramian.analysis.latent_directions.semantic_directions`
    of the new weight are exactly V's columns, all of one strength.

    Args:
        model: changed in place; ``undo()`` of the handle restores it.
        layers: patterns of the layers' names, such as ``"convs.*.conv.affine"`` of StyleGAN2.
        rank: directions kept a layer.
        scale: their common singular value; "match" takes the root mean square of the trained weight's leading
            `rank` singular values, layer by layer, which disturbs a trained model least.

    Raises:
        ValueError: a rank above a layer's least side, a weight with NaN, no layer that matches.

    Source: Song et al., "Householder Projector for Unsupervised Latent Semantics Discovery" (2023).
    """

    def replace(name: str, layer: nn.Module) -> nn.Module:
        weight, bias = _affine(layer)
        if rank > min(weight.shape):
            raise ValueError(f"{name}: rank={rank} is larger than the least side of its {tuple(weight.shape)} weight")
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name}: its weight holds NaN or infinity")
        value = scale
        if scale == "match":
            value = float(torch.linalg.svdvals(weight)[:rank].square().mean().sqrt())
        new = nn.Linear(
            weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
        )
        with torch.no_grad():
            new.weight.copy_(weight)
            if bias is not None:
                new.bias.copy_(bias)
        # unsafe: the projected weight is not the trained one, which is the point
        return parametrize.register_parametrization(new, "weight", HouseholderLowRank(rank, value), unsafe=True)

    return swap(model, layers, replace, (nn.Linear, EqualizedLinear))


def _affine(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The matrix and bias of a linear layer as they act."""
    if isinstance(layer, EqualizedLinear):
        return layer.matrix.detach(), (layer.bias * layer.rate).detach()
    bias = None if layer.bias is None else layer.bias.detach()
    return layer.weight.detach(), bias


def directions(layer: nn.Linear) -> Float[Tensor, "dim rank"]:
    """The directions a projected layer keeps: the columns of V.

    Raises:
        TypeError: a layer that `project` did not make.
    """
    if not parametrize.is_parametrized(layer, "weight") or not isinstance(
        layer.parametrizations.weight[0], HouseholderLowRank
    ):
        raise TypeError(f"{type(layer).__name__} is not a projected layer; call project first")
    rank = layer.parametrizations.weight[0].rank
    return orthogonal.householder_product(layer.parametrizations.weight.original1, columns=rank)
