"""Activating-while-pruning (AP): a part of each pruning takes negative weights, so that fewer ReLU units are silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.analysis import activity
from gramian.surgery.prune import iterative

__all__ = ["ActivatingWhilePruning", "Link", "activating_scores", "links"]

MODES = ("pro", "lite")
RULES = ("dead", "movement")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Link:
    """A layer whose outputs, normalised or not, are what a rectifier reads.

    Attributes:
        layer, rectifier: names of the modules.
        norm: name of the batch norm between them, if there is one.
        inputs_are_positive: whether the layer read nothing below zero in the batch that was followed.
        channels_first: whether the rectifier's outputs are (batch, units, …) with further axes.
    """

    layer: str
    rectifier: str
    norm: str | None
    inputs_are_positive: bool
    channels_first: bool


def links(model: nn.Module, batch: Tensor) -> list[Link]:
    """Which linear and convolution layers feed which rectifiers, found by following one batch through the model.

    Raises:
        ValueError: the model has no layer that gives exact zeros.
    """
    rectifiers = set(activity.rectifiers(model))
    sources: dict[int, tuple[str, str | None, bool]] = {}
    alive: list[Tensor] = []  # tensors are known by their identity: none may die, and hand on its number, meanwhile
    found: list[Link] = []
    hooks = []

    def remember(out: Any, entry: tuple[str, str | None, bool]) -> None:
        if isinstance(out, Tensor):
            alive.append(out)
            sources[id(out)] = entry

    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):

            def layer(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
                remember(out, (name, None, bool((args[0] >= 0).all())))

            hooks.append(module.register_forward_hook(layer))
        elif isinstance(module, _NORMS):

            def norm(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
                source = sources.get(id(args[0]))
                if source is not None and source[1] is None:
                    remember(out, (source[0], name, source[2]))

            hooks.append(module.register_forward_hook(norm))
        elif name in rectifiers:

            def rectifier(_: nn.Module, args: Any, name: str = name) -> None:
                source = sources.get(id(args[0]))
                if source is not None:
                    layer_name, norm_name, positive = source
                    wide = args[0].ndim > 2 and not isinstance(model.get_submodule(layer_name), nn.Linear)
                    found.append(Link(layer_name, name, norm_name, positive, wide))

            hooks.append(module.register_forward_pre_hook(rectifier))
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return found


def activating_scores(
    model: nn.Module, batches: Iterable[Tensor], masks: Mapping[str, Bool[Tensor, "..."]]
) -> dict[str, Float[Tensor, "..."]]:
    r"""\(\mathrm{DNR}_u\,|w|\) of the standing negative weights into each unit u, \(-\infty\) for every other weight.

    \(\mathrm{DNR}_u\) is the share of samples (and places) at which the unit's ReLU is zero. Where a layer reads
    nothing below zero, removing a negative weight can only raise what the ReLU reads; layers that read negative values
    are left out, and where a batch norm of negative scale stands between, positive weights take the negative ones'
    place.

    Args:
        batches: inputs of the model.
        masks: the weights that still stand.

    Raises:
        ValueError: no layer gives exact zeros, there is no batch, or no masked layer feeds a ReLU from inputs ≥ 0.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("the batches are empty: there is nothing to count dead units over")
    owned = [k for k in links(model, batches[0]) if k.inputs_are_positive and f"{k.layer}.weight" in masks]
    if not owned:
        raise ValueError(
            "no layer with masked weights feeds a ReLU from inputs that are never negative: give inputs scaled to "
            "0 … 1, or put a ReLU before the layer"
        )
    rates: dict[str, Tensor] = {}
    for wide in (False, True):
        names = [k.rectifier for k in owned if k.channels_first is wide]
        if names:
            rates |= {n: a.zero for n, a in activity.activity(model, batches, names, channels_first=wide).items()}
    scores = {n: torch.full(m.shape, -torch.inf, device=m.device) for n, m in masks.items()}
    for link in owned:
        name = f"{link.layer}.weight"
        weight = model.get_parameter(name).detach()
        sign = torch.ones(len(weight), device=weight.device)
        if link.norm is not None:
            norm = model.get_submodule(link.norm)
            sign = sign if norm.weight is None else norm.weight.detach().sign()
        shape = (-1,) + (1,) * (weight.ndim - 1)
        candidate = (weight * sign.view(shape) < 0) & masks[name]
        rate = rates[link.rectifier].to(scores[name]).view(shape)
        scores[name] = torch.where(candidate, rate * weight.abs().to(scores[name]), scores[name])
    return scores


class ActivatingWhilePruning:
    r"""The partner of a pruning method: takes a share q of the standing weights so that units wake up.

    Args:
        batches: inputs to count dead units over, kept as a list; not used by the rule ``"movement"``.
        share: q, below the share that a cycle removes in all.
        mode: ``"pro"``: in every cycle. ``"lite"``: in the last alone.
        rule: ``"dead"``: the largest \(\mathrm{DNR}_u |w|\) of negative weights (`activating_scores`). ``"movement"``:
            the negative weights of all layers that moved least in the training just done, which is what the released
            code does; it looks at no activation.

    Raises:
        ValueError: a share outside (0, 1), an unknown mode or rule, no batches for ``"dead"``; when it chooses, fewer
            candidates than it has to remove.

    Source: Liu, Ghosh, Tan & Motani (2022).
    """

    def __init__(
        self, batches: Iterable[Tensor] = (), share: float = 0.02, mode: str = "pro", rule: str = "dead"
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share={share} is the share of standing weights that it removes, in (0, 1)")
        if mode not in MODES or rule not in RULES:
            raise ValueError(
                f"mode={mode!r} is one of {', '.join(MODES)}, rule={rule!r} one of {', '.join(RULES)}: mend these"
            )
        self.batches, self.share, self.mode, self.rule = list(batches), share, mode, rule
        if rule == "dead" and not self.batches:
            raise ValueError("rule='dead' counts dead units: it needs batches of inputs")

    def active(self, cycle: int, cycles: int) -> bool:
        """Whether it takes part in this cycle, counted from 0."""
        return self.mode == "pro" or cycle == cycles - 1

    def choose(
        self, model: nn.Module, masks: iterative.Masks, count: int, start: Mapping[str, Tensor]
    ) -> iterative.Masks:
        """The masks with `count` more weights gone; `start` holds the weights before the training just done."""
        iterative.apply_masks(model, masks)
        if self.rule == "dead":
            scores = activating_scores(model, self.batches, masks)
        else:
            scores = {}
            for name, mask in masks.items():
                weight = model.get_parameter(name).detach()
                moved = (weight - start[name]).abs()
                scores[name] = torch.where((weight < 0) & mask, -moved, torch.full_like(moved, -torch.inf))
        eligible = {n: s > -torch.inf for n, s in scores.items()}
        available = sum(int(e.sum()) for e in eligible.values())
        if count > available:
            raise ValueError(f"{count} weights are to go, but only {available} negative ones qualify: lower the share")
        going = iterative.choose({n: -s for n, s in scores.items()}, 0.0, masks=eligible, count=count)
        return {n: m & ~(eligible[n] & ~going[n]) for n, m in masks.items()}
