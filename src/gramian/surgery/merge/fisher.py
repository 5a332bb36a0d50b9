"""Merging networks with their Fisher matrices: each weight goes where the networks that need it want it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gramian.surgery.merge import streams

__all__ = ["DifferentStart", "fisher_merge", "isotropic_merge", "search_weights"]

_RUNNING = ("running_mean", "running_var")


class DifferentStart(UserWarning):
    """The networks look as if they had been trained from different starting points: their average means little."""


def fisher_merge(
    models: Sequence[streams.Source],
    fishers: Sequence[Mapping[str, Tensor] | str | Path],
    weights: Sequence[float | int] | None = None,
    *,
    floor: float = 1e-6,
    normalize: bool = False,
    buffers: Literal["refuse", "mean", "first"] = "refuse",
    partial: bool = False,
    out: str | Path | None = None,
) -> dict[str, Tensor] | Path:
    r"""\(\theta^*_j = \sum_i w_i F_{ij} \theta_{ij} / \sum_i w_i F_{ij}\), number by number.

    Args:
        models: modules, state dictionaries or safetensors files of one architecture.
        fishers: for each its diagonal Fisher matrix (parameter → tensor), or a safetensors file of one; of an
            accumulator with ``source="true"``, as the paper does.
        weights: w, not negative; equal ones by default.
        floor: smallest F used, so that weights without information are averaged.
        normalize: divide each Fisher matrix by its norm first.
        buffers: what to do with floating tensors that have no Fisher matrix (running statistics of a batch norm) and
            differ: refuse, average, or take the first network's.
        partial: copy tensors that one network alone has (its head).
        out: a safetensors file to write to, tensor by tensor; otherwise the tensors are returned.

    Raises:
        ValueError: other keys or shapes, a negative, NaN or zero Fisher matrix, negative or all-zero weights, a floor
            that is negative, buffers that differ.

    Source: Matena & Raffel (2021), equation 6.
    """
    states = [streams.as_state(m) for m in models]
    matrices = [_means(f) for f in fishers]
    if len(matrices) != len(states):
        raise ValueError(f"{len(states)} networks, but {len(matrices)} Fisher matrices")
    if floor < 0:
        raise ValueError(f"floor={floor} must not be negative")
    names = streams.agree(states, partial=partial)
    scales = [
        w / _norm(f, n, normalize) for w, f, n in zip(_checked(weights, len(states)), matrices, range(len(states)))
    ]
    known = [set(f) for f in matrices]
    for name in sorted(set().union(*known)):
        if name not in names:
            raise ValueError(f"a Fisher matrix has {name!r}, which is no tensor of the networks")
        for i, state in enumerate(states):
            if name in state and name not in known[i]:
                raise ValueError(f"network {i} has no Fisher matrix for {name!r}")
            if name in state and tuple(matrices[i][name].shape) != streams.shape_of(state, name):
                raise ValueError(f"{name!r} has another shape in Fisher matrix {i} than in its network")

    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        having = [i for i, s in enumerate(states) if name in s]
        if not any(name in known[i] for i in having):
            return _without(name, tensors, buffers)
        top = bottom = torch.zeros((), dtype=_wide(tensors[0]))
        for i, tensor in zip(having, tensors, strict=True):
            if not scales[i]:
                continue
            share = scales[i] * matrices[i][name].to(tensor.device, _wide(tensor)).clamp(min=floor)
            top, bottom = top + share * tensor, bottom + share
        if not bool((bottom > 0).all()):
            raise ValueError(f"all Fisher matrices are zero somewhere in {name!r}: give floor= above 0")
        return top / bottom

    return _guarded(states, combine, out, partial)


def isotropic_merge(
    models: Sequence[streams.Source],
    weights: Sequence[float | int] | None = None,
    *,
    buffers: Literal["refuse", "mean", "first"] = "refuse",
    partial: bool = False,
    out: str | Path | None = None,
) -> dict[str, Tensor] | Path:
    r"""The weighted average \(\sum_i w_i \theta_i / \sum_i w_i\): Fisher merging with equal Fisher matrices.

    Raises:
        ValueError: as `fisher_merge`.
    """
    states = [streams.as_state(m) for m in models]
    shares = _checked(weights, len(states))
    parts = [{n for n, _ in m.named_parameters()} if hasattr(m, "named_parameters") else None for m in models]

    def combine(name: str, tensors: list[Tensor]) -> Tensor:
        is_buffer = name.rpartition(".")[2] in _RUNNING or any(p is not None and name not in p for p in parts)
        if is_buffer or not tensors[0].is_floating_point():
            return _without(name, tensors, buffers)
        used = [w for w, s in zip(shares, states, strict=True) if name in s]
        if not sum(used):
            raise ValueError(f"all networks that have {name!r} have weight zero")
        return sum(w * t.to(_wide(t)) for w, t in zip(used, tensors, strict=True)) / sum(used)

    return _guarded(states, combine, out, partial)


def search_weights(
    merge: Callable[[tuple[float, ...]], Any], score: Callable[[Any], float], count: int, points: int = 11
) -> tuple[tuple[float, ...], float, list[tuple[tuple[float, ...], float]]]:
    """The weights, of a grid on the simplex, whose merge scores highest; of equals, the most even.

    Args:
        merge: weights → merged network.
        score: merged network → a figure on validation data, higher is better.
        count: how many networks.
        points: grid points along each edge, ends included.

    Returns:
        the best weights, their score, and every (weights, score) tried.

    Raises:
        ValueError: fewer than two networks or points, or a score that is NaN.
    """
    if count < 2 or points < 2:
        raise ValueError(f"count={count} and points={points}: each is at least 2")
    tried = []
    for steps in itertools.product(range(points), repeat=count - 1):
        if sum(steps) < points:
            weights = tuple(s / (points - 1) for s in (*steps, points - 1 - sum(steps)))
            value = float(score(merge(weights)))
            if value != value:
                raise ValueError(f"the score at weights {weights} is NaN")
            tried.append((weights, value))
    weights, value = max(tried, key=lambda t: (t[1], -max(t[0])))
    return weights, value, tried


def _checked(weights: Sequence[float | int] | None, count: int) -> list[float]:
    found = [1.0] * count if weights is None else [float(w) for w in weights]
    if len(found) != count or any(not 0 <= w < float("inf") for w in found) or not any(found):
        raise ValueError(f"weights={found}: {count} numbers that are not negative, and not all zero, are needed")
    return found


def _means(fisher: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    if not isinstance(fisher, str | Path):
        return fisher
    file = streams.FileState(fisher)
    if file.metadata.get("format") == "gramian-fisher" and file.metadata.get("kind") != "diag":
        raise ValueError(f"{fisher} holds kind={file.metadata.get('kind')!r}, not a diagonal")
    return _Means(fisher)


class _Means(streams.FileState):
    """An accumulator's file read as means instead of sums."""

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name) / float(self.metadata.get("count", 1))


def _norm(fisher: Mapping[str, Tensor], index: int, normalize: bool) -> float:
    total = 0.0
    for name in fisher:
        values = fisher[name]
        if not bool((values >= 0).all()) or not bool(torch.isfinite(values).all()):
            raise ValueError(f"Fisher matrix {index} is negative, NaN or infinite at {name!r}")
        total += float(values.double().square().sum())
    if not total:
        raise ValueError(f"Fisher matrix {index} is zero everywhere: its network would have no say")
    return total**0.5 if normalize else 1.0


def _without(name: str, tensors: list[Tensor], buffers: str) -> Tensor:
    if all(t.equal(tensors[0]) for t in tensors[1:]) or buffers == "first":
        return tensors[0]
    if buffers == "mean" and tensors[0].is_floating_point():
        return sum(t.to(_wide(t)) for t in tensors) / len(tensors)
    if not tensors[0].is_floating_point() and buffers != "refuse":
        return tensors[0]
    raise ValueError(
        f"{name!r} has no Fisher matrix and differs between the networks: average such tensors with buffers='mean', or "
        "take the first network's with 'first'; running statistics are best measured again on data"
    )


def _guarded(
    states: Sequence[Mapping[str, Tensor]], combine: Callable[[str, list[Tensor]], Tensor], out: Any, partial: bool
) -> dict[str, Tensor] | Path:
    """Merge, and warn where the networks point in unrelated directions."""
    dots = [0.0, 0.0, 0.0]

    def watched(name: str, tensors: list[Tensor]) -> Tensor:
        if len(tensors) > 1 and tensors[0].is_floating_point() and tensors[0].ndim > 1:
            a, b = tensors[0].flatten().float(), tensors[1].flatten().float()
            for k, value in enumerate((a @ b, a @ a, b @ b)):
                dots[k] += float(value)
        return combine(name, tensors)

    merged = streams.merge_tensors(states, watched, out=out, partial=partial)
    if dots[1] and dots[2] and dots[0] < 0.1 * (dots[1] * dots[2]) ** 0.5:
        warnings.warn(
            f"the first two networks' weights have cosine {dots[0] / (dots[1] * dots[2]) ** 0.5:.2f}: they seem to "
            "have started from different points, and then no average of them works",
            DifferentStart,
            stacklevel=3,
        )
    return merged


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
