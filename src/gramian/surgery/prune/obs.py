"""Optimal brain surgeon with the inverse Fisher matrix of a window of gradients: prune, and correct what stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.linalg.factor.window import WindowInverse

__all__ = ["Pruned", "magnitude_prune", "obs_prune", "prunable"]

Gradients = Float[Tensor, "window weights"] | Callable[[nn.Module], Tensor]


@dataclass
class Pruned:
    """What a pruning did.

    Attributes:
        masks: parameter → True where a weight stays.
        sparsity: share of the weights that are gone.
    """

    masks: dict[str, Bool[Tensor, "..."]]

    @property
    def sparsity(self) -> float:
        kept = sum(int(m.sum()) for m in self.masks.values())
        return 1 - kept / sum(m.numel() for m in self.masks.values())


def prunable(model: nn.Module, params: str = "*weight") -> dict[str, nn.Parameter]:
    """The weights that pruning removes from: parameters of two axes or more whose names match a shell pattern.

    Raises:
        ValueError: there is none.
    """
    found = {n: p for n, p in model.named_parameters() if p.ndim > 1 and fnmatchcase(n, params)}
    if not found:
        raise ValueError(f"no parameter of two or more axes matches {params!r}")
    return found


def magnitude_prune(model: nn.Module, sparsity: float, params: str = "*weight") -> Pruned:
    """Set the smallest weights of all layers together to zero, in place.

    Raises:
        ValueError: sparsity outside [0, 1), or nothing to prune.
    """
    weights = prunable(model, params)
    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    keep = torch.ones_like(flat, dtype=torch.bool)
    keep[flat.abs().argsort()[: _target(sparsity, len(flat))]] = False
    return _write(weights, flat * keep, keep)


def obs_prune(
    model: nn.Module, gradients: Gradients, sparsity: float, rounds: int = 8, *, damp: float = 1e-4,
    params: str = "*weight",
) -> Pruned:  # fmt: skip
    r"""Prune in place by the optimal brain surgeon, the share that stays falling geometrically over the rounds.

    In each round the weights with the least \(\rho_i = w_i^2 / (2 [F^{-1}]_{ii})\) go, and the others move by the sum
    of \(-\frac{w_i}{[F^{-1}]_{ii}} F^{-1} e_i\) over them. F is that of the weights still there.

    Args:
        gradients: gradients of single samples, the chosen weights side by side (`prunable`'s order; an accumulator of
            kind ``"window"`` over the same parameters gives them), or a function model → gradients, called each round.
        sparsity: share of the weights to remove, in [0, 1).
        rounds: in how many steps.
        damp: λ in \(F = \lambda I + \frac1m \sum g g^\top\).

    Raises:
        ValueError: sparsity outside [0, 1), rounds below 1, gradients of the wrong length or not finite.

    Source: Frantar, Kurtic & Alistarh (2021), section 4.
    """
    weights = prunable(model, params)
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: at least 1 is needed")
    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    total = _target(sparsity, len(flat))
    keep = flat != 0
    result = _write(weights, flat, keep)
    for turn in range(1, rounds + 1):
        goal = total if turn == rounds else len(flat) - round(len(flat) * (1 - sparsity) ** (turn / rounds))
        extra = goal - int((~keep).sum())
        if extra <= 0:
            continue
        rows = gradients if isinstance(gradients, Tensor) else gradients(model)
        if rows.ndim != 2 or rows.shape[1] != len(flat) or not len(rows):
            raise ValueError(f"the gradients have shape {tuple(rows.shape)}; needed is (samples, {len(flat)})")
        inverse = WindowInverse.of(rows.to(flat.dtype) * keep, damp)
        diagonal = inverse.diag()
        cost = (flat.square() / (2 * diagonal)).masked_fill(~keep, torch.inf)
        going = cost.argsort()[:extra]
        pull = torch.zeros_like(flat)
        pull[going] = flat[going] / diagonal[going]
        flat = flat - inverse.solve(pull)
        keep[going] = False
        flat = flat * keep
        result = _write(weights, flat, keep)
    return result


def _target(sparsity: float, size: int) -> int:
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity} is the share of weights to remove, in [0, 1)")
    return round(sparsity * size)


def _write(weights: dict[str, nn.Parameter], flat: Tensor, keep: Tensor) -> Pruned:
    masks, start = {}, 0
    with torch.no_grad():
        for name, weight in weights.items():
            part = slice(start, start + weight.numel())
            weight.copy_(flat[part].view_as(weight))
            masks[name] = keep[part].view_as(weight).clone()
            start = part.stop
    return Pruned(masks)
