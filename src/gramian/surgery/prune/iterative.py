r"""Pruning by masks: score weights, remove a share, hold the zeros while training; over cycles with rewinding.

Scores are dictionaries parameter name → importance (a tensor of the weight's shape, lowest goes first); masks are
dictionaries parameter name → True where a weight stays. Both work on any module and any selection of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.surgery.prune.obs import prunable

__all__ = ["Cycle", "Held", "Partner", "all_kept", "apply_masks", "choose", "iterative_prune", "prune_once", "sparsity"]

Masks = dict[str, Bool[Tensor, "..."]]
Scores = Mapping[str, Float[Tensor, "..."]]
Scorer = Callable[[nn.Module, Masks], Scores]
SCOPES = ("global", "matrix")


@runtime_checkable
class Partner(Protocol):
    """Removes a part of a cycle's share by a rule of its own (such as `ActivatingWhilePruning`)."""

    share: float

    def active(self, cycle: int, cycles: int) -> bool:
        """Whether it takes part in this cycle, counted from 0."""
        ...

    def choose(self, model: nn.Module, masks: Masks, count: int, start: Mapping[str, Tensor]) -> Masks:
        """The masks with `count` more weights gone; `start` holds the weights before the training just done."""
        ...


@dataclass
class Cycle:
    """One cycle of train, prune, rewind.

    Attributes:
        sparsity: share of the weights that are gone after it.
        removed: how many weights the scorer took.
        removed_by_partner: how many its partner took.
        masks: after the cycle.
    """

    sparsity: float
    removed: int
    removed_by_partner: int = 0
    masks: Masks = field(default_factory=dict, repr=False)


def all_kept(model: nn.Module, params: str = "*weight") -> Masks:
    """Masks that keep every weight of two axes or more whose name matches a shell pattern.

    Raises:
        ValueError: nothing matches.
    """
    return {n: torch.ones_like(p, dtype=torch.bool) for n, p in prunable(model, params).items()}


def sparsity(masks: Mapping[str, Bool[Tensor, "..."]]) -> float:
    """The share of weights that the masks remove."""
    return 1 - sum(int(m.sum()) for m in masks.values()) / sum(m.numel() for m in masks.values())


def choose(
    scores: Scores, share: float | int, *, scope: str = "global",
    masks: Mapping[str, Bool[Tensor, "..."]] | None = None, count: int | None = None,
) -> Masks:  # fmt: skip
    """Masks that remove the lowest scores among the weights that still stand; among equal scores the first go.

    Args:
        scores: parameter name → importance.
        share: of the standing weights, how many to remove, in [0, 1).
        scope: ``"global"``: all matrices compete; ``"matrix"``: the share is taken from each.
        masks: what stands before; None: everything.
        count: an exact number to remove in place of the share; for the global scope.

    Raises:
        ValueError: a share outside [0, 1), an unknown scope, a score that is not finite, masks of other names or
            shapes, or more to remove than stands.

    >>> choose({"w": torch.tensor([[3.0, 1.0], [2.0, 4.0]])}, 0.5)["w"]
    tensor([[ True, False],
            [False,  True]])
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share} is the share of standing weights to remove, in [0, 1)")
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r} is not one of {', '.join(SCOPES)}")
    if not scores:
        raise ValueError("there are no scores: nothing to prune")
    if count is not None and scope != "global":
        raise ValueError("count= is for scope='global'; give a share= for each matrix")
    standing = {n: torch.ones_like(s, dtype=torch.bool) for n, s in scores.items()} if masks is None else dict(masks)
    _fits(scores, standing)
    if scope == "matrix":
        return {
            n: _lowest_gone(s.flatten(), standing[n].flatten(), round(share * int(standing[n].sum()))).view_as(s)
            for n, s in scores.items()
        }
    flat = torch.cat([s.detach().flatten().double() for s in scores.values()])
    keep = torch.cat([standing[n].flatten() for n in scores])
    keep = _lowest_gone(flat, keep, round(share * int(keep.sum())) if count is None else count)
    parts = keep.split([s.numel() for s in scores.values()])
    return {n: part.view_as(s).clone() for part, (n, s) in zip(parts, scores.items(), strict=True)}


def apply_masks(model: nn.Module, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
    """Set what the masks remove to zero, in place.

    Raises:
        ValueError: a mask of a parameter that the model lacks, or of another shape.
    """
    for parameter, mask in _pairs(model, masks):
        with torch.no_grad():
            parameter.masked_fill_(~mask.to(parameter.device), 0)


def prune_once(
    model: nn.Module, scores: Scores, share: float | int, *, scope: str = "global",
    masks: Mapping[str, Bool[Tensor, "..."]] | None = None,
) -> Masks:  # fmt: skip
    """`choose`, then `apply_masks`: remove a share of the standing weights in place; returns what still stands."""
    found = choose(scores, share, scope=scope, masks=masks)
    apply_masks(model, found)
    return found


class Held(AbstractContextManager):
    """While open, removed weights stay zero under any optimizer that starts afresh inside: their gradients are zero.

    Entering applies the masks; leaving applies them again, and takes the hooks off whatever happened.

    Raises:
        ValueError: a mask of a parameter that the model lacks, or of another shape.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Bool[Tensor, "..."]]) -> None:
        self.model, self.masks = model, masks
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Held:
        apply_masks(self.model, self.masks)
        for parameter, mask in _pairs(self.model, self.masks):
            if parameter.requires_grad:
                stays = mask.to(parameter.device)
                self._hooks.append(parameter.register_hook(lambda g, stays=stays: g.masked_fill(~stays, 0)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        apply_masks(self.model, self.masks)


def iterative_prune(
    model: nn.Module,
    train: Callable[[nn.Module], object],
    scorer: Scorer,
    cycles: int,
    share: float | int,
    *,
    scope: str = "global",
    rewind: Mapping[str, Tensor] | None = None,
    partner: Partner | None = None,
    params: str = "*weight",
    after: Callable[[nn.Module, Cycle], object] | None = None,
) -> list[Cycle]:
    r"""Train, remove a share of what stands, rewind, again and again; a last training ends it. In place.

    After c cycles \((1 - p)^c\) of the weights stand, with or without a partner: what a partner removes comes off the
    scorer's share.

    Args:
        train: trains the model as it is; it is called with the removed weights held at zero, and starts an optimizer
            of its own.
        scorer: (model, masks) → scores, called after each training (`gramian.surgery.prune.scores`).
        cycles: how many prunings.
        share: p, of the weights that stand, to remove in each.
        scope: see `choose`.
        rewind: a state to put back after each pruning, whole or of some tensors: the start (the lottery-ticket
            rule), or that of an early step; None goes on from the trained weights.
        partner: takes a part of the share by its own rule.
        params: shell pattern of the parameters to prune.
        after: called after the last training of each cycle, for measurements; with the dense network first.

    Returns:
        What each cycle removed.

    Raises:
        ValueError: fewer than one cycle, a share outside (0, 1), a partner whose share is not below it, a rewinding
            state that does not fit, or nothing to prune.

    Source: Frankle & Carbin (2019), section 2 (iterative pruning with rewinding).
    """
    if cycles < 1:
        raise ValueError(f"cycles={cycles}: at least 1 is needed")
    if not 0 < share < 1:
        raise ValueError(f"share={share} is the share of standing weights that a cycle removes, in (0, 1)")
    if partner is not None and partner.share >= share:
        raise ValueError(f"the partner's share {partner.share} must stay below the cycle's share {share}")
    if rewind is not None:
        own = model.state_dict()
        wrong = [n for n, t in rewind.items() if n not in own or own[n].shape != t.shape]
        if wrong:
            raise ValueError(f"the rewinding state does not fit the model at {', '.join(wrong)}")
    start = None if rewind is None else {n: t.detach().clone() for n, t in rewind.items()}
    masks, done = all_kept(model, params), []
    before = _weights(model, masks)
    train(model)
    if after is not None:
        after(model, Cycle(0.0, 0, 0, masks))
    for index in range(cycles):
        standing = sum(int(m.sum()) for m in masks.values())
        total = round(share * standing)
        joins = partner is not None and partner.active(index, cycles)
        its = round(partner.share * standing) if partner is not None and joins else 0
        scores = scorer(model, masks)
        if scope == "global":
            masks = choose(scores, 0.0, masks=masks, count=total - its)
        else:
            masks = choose(scores, (total - its) / standing, scope=scope, masks=masks)
        removed = standing - sum(int(m.sum()) for m in masks.values())
        if partner is not None and its:
            masks = partner.choose(model, masks, total - removed, before)
        left = sum(int(m.sum()) for m in masks.values())
        done.append(Cycle(sparsity(masks), removed, standing - removed - left, masks))
        if start is not None:
            model.load_state_dict(start, strict=False)
        with Held(model, masks):
            before = _weights(model, masks)
            train(model)
        if after is not None:
            after(model, done[-1])
    return done


def _lowest_gone(scores: Tensor, keep: Tensor, count: int) -> Tensor:
    if not 0 <= count <= int(keep.sum()):
        raise ValueError(f"{count} weights are to go, but {int(keep.sum())} stand")
    order = scores.detach().masked_fill(~keep, torch.inf).argsort(stable=True)
    keep = keep.clone()
    keep[order[:count]] = False
    return keep


def _weights(model: nn.Module, masks: Masks) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n in masks}


def _fits(scores: Scores, masks: Mapping[str, Tensor]) -> None:
    if set(scores) != set(masks):
        raise ValueError(f"scores and masks name different parameters: {sorted(set(scores) ^ set(masks))}")
    for name, score in scores.items():
        if score.shape != masks[name].shape:
            raise ValueError(f"{name}: scores of shape {tuple(score.shape)}, a mask of {tuple(masks[name].shape)}")
        if not bool(torch.isfinite(score[masks[name]]).all()):
            raise ValueError(f"{name}: the scores of standing weights must be finite")


def _pairs(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[nn.Parameter, Tensor]]:
    own = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in own:
            raise ValueError(f"the model has no parameter {name!r}; masks are of another model")
        if own[name].shape != mask.shape:
            raise ValueError(f"{name} has shape {tuple(own[name].shape)}, its mask {tuple(mask.shape)}")
    return [(own[name], mask) for name, mask in masks.items()]
