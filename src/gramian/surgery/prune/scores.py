"""How much each weight matters: by size, layer-adapted size (LAMP), the loss's slope (SNIP), the inverse Fisher.

Every function gives parameter name → scores of the weight's shape; the lowest are pruned first
(`gramian.surgery.prune.iterative`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.linalg.factor.window import WindowInverse
from gramian.surgery.prune.obs import prunable

__all__ = ["lamp", "magnitude", "snip", "surgeon"]

Scores = dict[str, Float[Tensor, "..."]]


def magnitude(model: nn.Module, params: str = "*weight") -> Scores:
    r"""\(|w|\).

    >>> magnitude(nn.Linear(2, 3))["weight"].shape
    torch.Size([3, 2])
    """
    return {n: p.detach().abs() for n, p in prunable(model, params).items()}


def lamp(model: nn.Module, params: str = "*weight", masks: Mapping[str, Bool[Tensor, "..."]] | None = None) -> Scores:
    r"""\(w_u^2 / \sum_{v: |w_v| \ge |w_u|} w_v^2\) within each matrix: magnitude, but comparable between matrices.

    The largest weight of each matrix has score 1, so that under a global share no matrix is emptied.

    Args:
        masks: weights outside them count as zero.

    Source: Lee, Park, Mo, Ahn & Shin (2021), equation 4.
    """
    found = {}
    for name, weight in prunable(model, params).items():
        squares = weight.detach().double().square().flatten()
        if masks is not None:
            squares = squares * masks[name].flatten()
        order = squares.argsort(stable=True)
        ordered = squares[order]
        tail = ordered.flip(0).cumsum(0).flip(0)
        score = torch.zeros_like(ordered)
        score[order] = ordered / tail.clamp_min(torch.finfo(tail.dtype).tiny)
        found[name] = score.view_as(weight)
    return found


def snip(model: nn.Module, loss: Callable[[nn.Module], Tensor], params: str = "*weight") -> Scores:
    r"""\(|w \cdot \partial L / \partial w|\): how much the loss would change, to first order, without the weight.

    Args:
        loss: model → a scalar, over as much data as is wanted.

    Raises:
        ValueError: the loss does not reach a weight, or is not finite.

    Source: Lee, Ajanthan & Torr (2019), equation 6 (not normalised: the order is the same).
    """
    weights = prunable(model, params)
    frozen = [w for w in weights.values() if not w.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        value = loss(model)
        slopes = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    if not bool(torch.isfinite(value)):
        raise ValueError(f"the loss is {float(value.detach())}; finite is needed")
    missed = [n for n, g in zip(weights, slopes, strict=True) if g is None]
    if missed:
        raise ValueError(f"the loss does not depend on {', '.join(missed)}; leave them out with params=")
    return {n: (w.detach() * g).abs() for (n, w), g in zip(weights.items(), slopes, strict=True)}


def surgeon(
    model: nn.Module, gradients: Float[Tensor, "window weights"], params: str = "*weight", *, damp: float = 1e-4,
    masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
) -> Scores:  # fmt: skip
    r"""\(w_i^2 / (2 [F^{-1}]_{ii})\), F the damped Fisher matrix of a window of gradients (M-FAC's saliency).

    Args:
        gradients: of single samples, the chosen weights side by side in `prunable`'s order.
        damp: λ in \(F = \lambda I + \frac1m \sum g g^\top\).
        masks: F is that of the weights inside them.

    Raises:
        ValueError: gradients of the wrong length or not finite.

    Source: Frantar, Kurtic & Alistarh (2021), section 4.
    """
    weights = prunable(model, params)
    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    if gradients.shape[1] != len(flat) or not len(gradients):
        raise ValueError(f"the gradients have shape {tuple(gradients.shape)}; needed is (samples, {len(flat)})")
    if masks is not None:
        gradients = gradients * torch.cat([masks[n].flatten() for n in weights])
    score = flat.square() / (2 * WindowInverse.of(gradients.to(flat.dtype), damp).diag())
    parts = score.split([w.numel() for w in weights.values()])
    return {n: part.view_as(w) for part, (n, w) in zip(parts, weights.items(), strict=True)}
