"""EVA: start LoRA's A at the directions that explain most of what flows into each layer, ranks shared out by it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.reducers import Reducer
from gramian.analysis.sketches import PrincipalComponents
from gramian.analysis.taps import Taps
from gramian.surgery.adapters.apply import Attached, attach_lora
from gramian.surgery.swap import find

__all__ = ["EVANotConverged", "ExplainedVariance", "attach_eva", "explain_inputs", "share_ranks"]


class EVANotConverged(UserWarning):
    """The directions of some layers still turned by more than the threshold allows at the end of the batches."""


@dataclass(frozen=True)
class ExplainedVariance:
    """What flows into the layers, and the ranks that follow from it.

    Attributes:
        ranks: by layer; their sum is `rank` times the number of layers. A layer of rank 0 gets no adapter.
        components: by layer, (rank, in): the leading principal directions of its inputs, orthonormal.
        singular_values: by layer, of those directions.
        ratios: by layer, the share of its inputs' variance along each of the directions that were followed.
        groups: layers that read the same input, and so share one decomposition.
        rank: the mean rank asked for.
        batches: how many batches were read.
        converged: whether every direction that is used had settled.
    """

    ranks: dict[str, int]
    components: dict[str, Float[Tensor, "rank in"]]
    singular_values: dict[str, Float[Tensor, " rank"]]
    ratios: dict[str, Float[Tensor, " followed"]]
    groups: tuple[tuple[str, ...], ...]
    rank: int
    batches: int
    converged: bool


class _Digest(Reducer):
    """Names a batch by its bits, to tell which layers read the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        self.digest.update(f"{x.dtype} {tuple(x.shape)}".encode())
        self.digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        self.count += len(x)

    def merge(self, other: Reducer) -> None:
        raise TypeError("digests of a stream cannot be merged")

    @property
    def nbytes(self) -> int:
        return self.digest.digest_size

    def __deepcopy__(self, memo: dict[int, Any]) -> _Digest:
        return _Digest()


def share_ranks(ratios: Mapping[str, Float[Tensor, " followed"]], budget: int) -> dict[str, int]:
    """Give `budget` ranks to layers: the largest of all explained shares, wherever they are, get one each.

    Args:
        ratios: by layer, explained shares, descending. Of equal shares the earlier layer's is taken.

    Raises:
        ValueError: a budget below zero or above the number of shares.

    >>> share_ranks({"a": torch.tensor([0.9, 0.05]), "b": torch.tensor([0.5, 0.3])}, 3)
    {'a': 1, 'b': 2}
    """
    names = [name for name, values in ratios.items() for _ in range(len(values))]
    if not 0 <= budget <= len(names):
        raise ValueError(f"budget={budget} is not between 0 and {len(names)}, the number of directions followed")
    order = torch.cat(list(ratios.values())).argsort(descending=True, stable=True)[:budget].tolist()
    ranks = dict.fromkeys(ratios, 0)
    for place in order:
        ranks[names[place]] += 1
    return ranks


def explain_inputs(
    model: nn.Module,
    pattern: str | Iterable[str],
    batches: Iterable[Any],
    rank: int = 8,
    *,
    rho: float | int = 2.0,
    tau: float = 0.99,
    max_passes: int = 10,
    run: Callable[[nn.Module, Any], Any] | None = None,
) -> ExplainedVariance:
    """Follow the principal directions of every matching layer's inputs until the ones that matter stand still.

    Batch after batch goes through the model; each layer's directions come from a streaming singular value
    decomposition of its centred inputs, padding left out. A layer rests while all directions that the present
    sharing of ranks gives it turned by a cosine of at least `tau` in its last update. Reading stops when all
    rest; where the batches end before that, they are read again.

    Args:
        pattern: names of linear layers.
        batches: mappings (called as ``model(**batch)``; an ``"attention_mask"`` says what is padding), tuples
            (``model(*batch)``), or tensors. They must be readable more than once.
        rank: the mean rank r of an adapter.
        rho: ρ; the first ρ r directions of a layer are followed, so that its rank is at most ρ r.
        tau: τ.
        max_passes: over the batches; `EVANotConverged` warns where that was not enough.
        run: (model, batch) → anything, in place of calling the model.

    Raises:
        ValueError: rank below 1, rho below 1, tau outside (0, 1], no batches, fewer rows in them than directions,
            more directions than a layer's width, or nothing matches.
        TypeError: the batches can be read only once; a layer with a weight that matches is not linear.

    Source: Paischer et al., "Explained Variance Adaptation" (2024), algorithm 1.
    """
    followed = round(rank * rho) if rank >= 1 and rho >= 1 else 0
    layers = _layers(model, pattern, batches, rank, rho, tau, followed)
    forward = _call if run is None else run
    training = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            groups = _groups(model, layers, batches, forward)
            return _follow(model, groups, list(layers), batches, rank, followed, tau, max_passes, forward)
    finally:
        for module, mode in training.items():
            module.training = mode


def _layers(
    model: nn.Module, pattern: Any, batches: Any, rank: int, rho: float | int, tau: float, followed: int
) -> dict[str, nn.Linear]:
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    if rho < 1:
        raise ValueError(f"rho={rho} must be at least 1: each layer must be able to get its mean rank")
    if not 0 < tau <= 1:
        raise ValueError(f"tau={tau} is a cosine above 0 and at most 1")
    if iter(batches) is batches:
        raise TypeError("batches is an iterator and can be read only once: give a list or a DataLoader")
    if next(iter(batches), None) is None:
        raise ValueError("there are no batches")
    found = {}
    for name, layer in find(model, pattern).items():
        if not isinstance(getattr(layer, "weight", None), Tensor):
            continue  # a block or an activation that the pattern also matches
        if not isinstance(layer, nn.Linear):
            raise TypeError(f"{name} is a {type(layer).__name__}; EVA starts adapters of linear layers")
        if followed > min(layer.weight.shape):
            raise ValueError(
                f"{name}: rho · rank = {followed} directions, but the least side of its weight is "
                f"{min(layer.weight.shape)}; lower rank= or rho="
            )
        found[name] = layer
    if not found:
        raise ValueError(f"no linear layer among those that match {pattern}")
    return found


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def _mask(batch: Any) -> Tensor | None:
    return batch.get("attention_mask") if isinstance(batch, Mapping) else None


def _groups(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Any, forward: Any
) -> tuple[tuple[str, ...], ...]:
    """Layers whose inputs are the same bits in the first batch."""
    first = next(iter(batches))
    with Taps(model, {name: [_Digest()] for name in map(_literal, layers)}, side="in") as taps:
        forward(model, first)
    by_digest: dict[bytes, list[str]] = {}
    for name in layers:
        digest = taps[name][0]
        assert isinstance(digest, _Digest)
        if digest.count == 0:
            raise ValueError(f"{name} was not called for the first batch: it cannot be explained")
        by_digest.setdefault(digest.digest.digest(), []).append(name)
    return tuple(tuple(names) for names in by_digest.values())


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _follow(
    model: nn.Module, groups: tuple[tuple[str, ...], ...], order: list[str], batches: Any,
    rank: int, followed: int, tau: float, max_passes: int, forward: Any,
) -> ExplainedVariance:  # fmt: skip
    heads = {name: group[0] for group in groups for name in group}
    taps = Taps(model, {_literal(g[0]): [PrincipalComponents(followed)] for g in groups}, side="in")
    streams = {group[0]: taps[group[0]][0] for group in groups}
    ranks, read, rest = dict.fromkeys(order, followed), 0, False
    for batch in chain.from_iterable(batches for _ in range(max_passes)):
        with taps:
            taps.mask = _mask(batch)
            forward(model, batch)
        read += 1
        if all(len(stream.svd.components) == followed for stream in streams.values()):
            ratios = {name: streams[heads[name]].svd.explained_ratio for name in order}
            ranks = share_ranks(ratios, rank * len(order))
            for group in groups:
                # all of a group share one decomposition: it must be good for the largest rank among them
                needed = max(ranks[name] for name in group)
                streams[group[0]].paused = bool(streams[group[0]].svd.settled(tau)[:needed].all())
            rest = all(stream.paused for stream in streams.values())
        if rest:
            break
    short = {n: s.count for n, s in streams.items() if len(s.svd.components) < followed}
    if short:
        name, count = next(iter(short.items()))
        raise ValueError(f"{name}: {count} rows give fewer than rho · rank = {followed} directions; read more batches")
    if not rest:
        warnings.warn(
            f"after {read} batches some directions still turn by more than tau={tau:g} allows: give more batches, a "
            "lower tau, or a higher max_passes",
            EVANotConverged,
            stacklevel=3,
        )
    svds = {name: streams[heads[name]].svd for name in order}
    return ExplainedVariance(
        ranks,
        {name: svd.components[: ranks[name]].clone() for name, svd in svds.items()},
        {name: svd.singular_values[: ranks[name]].clone() for name, svd in svds.items()},
        {name: svd.explained_ratio for name, svd in svds.items()},
        groups, rank, read, rest,
    )  # fmt: skip


def attach_eva(
    model: nn.Module,
    explained: ExplainedVariance,
    *,
    alpha: float | int | None = None,
    whiten: bool = False,
    keep: str | Iterable[str] = (),
    **settings: Any,
) -> Attached:
    """LoRA layers of the ranks that `explain_inputs` found, A at the directions, B at zero: still the base model.

    Args:
        alpha: of an adapter of the mean rank; the scaling alpha / rank is the same for all.
        whiten: divide each direction by the square root of its singular value.
        keep, settings: as `gramian.surgery.adapters.apply.attach_lora` takes them (dropout, dtype).

    Raises:
        ValueError: a setting that contradicts EVA's start (``init``, ``train="A"``), or a layer that the model lacks.

    Source: Paischer et al. (2024); the scaling as in `peft`'s ``adjust_scaling_factors``.
    """
    if "init" in settings or settings.get("train", "AB") == "A":
        raise ValueError("EVA starts A at the directions and B at zero: leave out init= and train='A'")
    scaling = (explained.rank if alpha is None else alpha) / explained.rank
    attached = attach_lora(
        model, [_literal(n) for n, r in explained.ranks.items() if r], explained.rank,
        ranks=explained.ranks, keep=keep, **settings,
    )  # fmt: skip
    for name in attached.names:
        directions = explained.components[name]
        if whiten:
            directions = directions / explained.singular_values[name].sqrt()[:, None]
        adapter = attached[name]
        adapter.alpha = scaling * adapter.rank
        with torch.no_grad():
            adapter.A.copy_(directions)
    return attached
