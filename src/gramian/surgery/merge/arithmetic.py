"""Merging by task vectors: what training changed, added up, trimmed, or averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.surgery.merge import streams

__all__ = ["plain_average", "task_arithmetic", "task_vectors", "ties"]


def task_vectors(base: streams.Source, experts: Sequence[streams.Source]) -> list[dict[str, Tensor]]:
    r"""\(\tau_i = \theta_i - \theta_0\): what training changed, for each expert, by name; of floating tensors alone.

    Args:
        base: the network \(\theta_0\) that the experts were trained from: a module, its state, or a safetensors file.
        experts: the networks \(\theta_i\).

    Raises:
        ValueError: no expert, or names or shapes that differ.
    """
    start = streams.as_state(base)
    states = [streams.as_state(e) for e in experts]
    if not states:
        raise ValueError("there is no expert: give at least one network trained from the base")
    names = streams.agree([start, *states])
    found: list[dict[str, Tensor]] = [{} for _ in states]
    for name in names:
        first = start[name].detach()
        if first.is_floating_point():
            for vector, state in zip(found, states, strict=True):
                vector[name] = _wide(state[name].detach()) - _wide(first)
    return found


def task_arithmetic(
    base: streams.Source,
    experts: Sequence[streams.Source],
    scale: float | int | Sequence[float | int] = 0.3,
    *,
    out: str | Path | None = None,
) -> dict[str, Tensor] | Path:
    r"""\(\theta_0 + \sum_i \lambda_i (\theta_i - \theta_0)\), tensor by tensor; integers are the base's.

    Args:
        scale: λ, one number or one an expert.
        out: a safetensors file to write to; otherwise the tensors are returned.

    Raises:
        ValueError: fewer than two experts, names or shapes that differ, another number of scales, or one not finite.

    Source: Ilharco et al., "Editing models with task arithmetic" (2023), section 4.2.

    >>> task_arithmetic({"w": torch.tensor([1.0])}, [{"w": torch.tensor([2.0])}, {"w": torch.tensor([4.0])}], 0.5)
    {'w': tensor([3.])}
    """
    states = _checked(experts)
    scales = [scale] * len(states) if isinstance(scale, int | float) else list(scale)
    if len(scales) != len(states) or not all(math.isfinite(s) for s in scales):
        raise ValueError(f"scale={scale}: one finite number, or one for each of {len(states)} experts, is needed")

    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        first, *rest = tensors
        if not first.is_floating_point():
            return first
        start = _wide(first)
        return start + sum(s * (_wide(t) - start) for s, t in zip(scales, rest, strict=True))

    return streams.merge_tensors([streams.as_state(base), *states], combine, out=out)


def plain_average(experts: Sequence[streams.Source], *, out: str | Path | None = None) -> dict[str, Tensor] | Path:
    r"""\(\frac1n \sum_i \theta_i\); other than floating tensors are the first network's.

    Raises:
        ValueError: fewer than two experts, names or shapes that differ.
    """

    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        if not tensors[0].is_floating_point():
            return tensors[0]
        return sum(_wide(t) for t in tensors) / len(tensors)

    return streams.merge_tensors(_checked(experts), combine, out=out)


def ties(
    base: streams.Source,
    experts: Sequence[streams.Source],
    scale: float | int = 1.0,
    density: float | int = 0.2,
    *,
    out: str | Path | None = None,
) -> dict[str, Tensor] | Path:
    r"""TIES: of each task vector keep the largest entries, elect a sign for each weight, average what agrees with it.

    1. Trim: of each expert's tensor all but the ``density`` share of largest magnitude become zero.
    2. Elect: the sign of \(\sum_i \tau_i\) at each weight.
    3. Merge: the mean of those nonzero entries that have this sign; the result is added to the base, times λ.

    Args:
        scale: λ.
        density: the share kept, in (0, 1]; entries are counted in each tensor.
        out: a safetensors file to write to; otherwise the tensors are returned.

    Raises:
        ValueError: fewer than two experts, names or shapes that differ, a density outside (0, 1].

    Source: Yadav et al., "TIES-Merging" (2023), algorithm 1; trimming within each tensor as merging tools do.
    """
    states = _checked(experts)
    if not 0 < density <= 1:
        raise ValueError(f"density={density} must be above 0 and at most 1: the share of entries that is kept")
    if not math.isfinite(scale):
        raise ValueError(f"scale={scale} must be finite")

    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        first, *rest = tensors
        if not first.is_floating_point() or not first.numel():
            return first
        start = _wide(first)
        trimmed = torch.stack([_trim(_wide(t) - start, density) for t in rest])
        sign = trimmed.sum(0).sign()
        agrees = (trimmed.sign() == sign) & (trimmed != 0)
        mean = (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        return start + scale * mean

    return streams.merge_tensors([streams.as_state(base), *states], combine, out=out)


def _trim(vector: Tensor, density: float | int) -> Tensor:
    """All but the largest entries set to zero; how many stay is rounded down, but one stays."""
    keep = max(1, int(density * vector.numel()))
    at = vector.abs().flatten().topk(keep).indices
    mask = torch.zeros(vector.numel(), dtype=torch.bool, device=vector.device).index_fill(0, at, True)
    return vector * mask.view_as(vector)


def _checked(experts: Sequence[streams.Source]) -> list[Mapping[str, Any]]:
    if len(experts) < 2:
        raise ValueError(f"{len(experts)} expert: a merge needs at least two networks")
    return [streams.as_state(e) for e in experts]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
