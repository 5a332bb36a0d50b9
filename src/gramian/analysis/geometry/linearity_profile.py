r"""How linear every block of a network is: a streamed profile that keeps no activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.analysis.geometry.linearity import AffineMap, affine_fit, linearity_score, residual_free
from gramian.analysis.geometry.paired import CrossCovariance, PairedStatistics
from gramian.analysis.reducers import Covariance, Reducer
from gramian.analysis.taps import Taps

__all__ = ["BlockLinearity", "ChainStatistics", "linearity_profile"]

Batch = Tensor | Mapping[str, Tensor]


class ChainStatistics:
    """Paired statistics of every two neighbours in a chain of layers; each layer's covariance is kept once.

    Args:
        links: pairs of neighbours; there is one state more.
    """

    def __init__(self, links: int) -> None:
        self.states = [Covariance() for _ in range(links + 1)]
        self.crosses = [CrossCovariance() for _ in range(links)]

    def update(self, states: Sequence[Float[Tensor, "samples _"]]) -> None:
        """Take in the features of the same samples in every layer of the chain.

        Raises:
            ValueError: another number of layers, different numbers of samples, or NaN.
        """
        if len(states) != len(self.states):
            raise ValueError(f"{len(states)} layers of a chain of {len(self.states)}")
        for cross, (x, y) in zip(self.crosses, pairwise(states), strict=True):
            cross.update(x, y)
        for kept, x in zip(self.states, states, strict=True):
            if len(x):
                kept.update(x)

    def pair(self, link: int) -> PairedStatistics:
        """The statistics of state `link` and the next."""
        found = PairedStatistics()
        found.x, found.y, found.cross = self.states[link], self.states[link + 1], self.crosses[link]
        return found

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return sum(kept.nbytes for kept in (*self.states, *self.crosses))


@dataclass(frozen=True)
class BlockLinearity:
    """How linear one block of a network is.

    Attributes:
        name: the block.
        drop_first: positions left out at the start of every sequence.
        score: of the block's output as a function of its input.
        without_residual: of output − input; None where the widths differ.
        held_out: `score` of the same map on other text, and `held_out_without_residual` likewise; None without text.
        fitted: the map.
        samples: positions that it was fitted to.
        nbytes: what the pass held in statistics.
    """

    name: str
    drop_first: int
    score: float
    without_residual: float | None
    held_out: float | None
    held_out_without_residual: float | None
    fitted: AffineMap
    samples: int
    nbytes: int


class _Latest(Reducer):
    """The rows of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Tensor | None = None

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        self.rows = x
        self.count += len(x)

    def merge(self, other: Reducer) -> None:
        raise TypeError("the latest batch of one stream does not merge with another's")

    @property
    def nbytes(self) -> int:
        return 0 if self.rows is None else self.rows.nbytes


def linearity_profile(
    model: nn.Module,
    batches: Sequence[Batch],
    blocks: str | Sequence[str] = "layers.*",
    *,
    drop_first: int | Sequence[int] = 0,
    held_out: Sequence[Batch] = (),
    max_bytes: int | None = None,
) -> list[BlockLinearity]:
    """The linearity of every block of a chain: output against input, without keeping activations.

    Args:
        model: takes one of `batches` (a tensor of token numbers, or a mapping of named arguments with ``input_ids``
            and, if texts are padded, ``attention_mask``). It is run in evaluation mode and gets its own mode back.
        batches: read once, or several times under `max_bytes`.
        blocks: names of the blocks in their order, or one pattern with a number for its ``*``. The output of each
            is the input of the next.
        drop_first: positions to leave out at the start of each sequence; several numbers give a profile for each.
        held_out: batches on which the fitted maps are scored again.
        max_bytes: what the statistics may hold; the chain is then measured in pieces, one pass over the batches
            each, so that the figures are the same.

    Returns:
        for each of `drop_first`, for each block, its figures.

    Raises:
        ValueError: no batch, no block of that name, not more positions than features, or memory for less than
            one block.

    Source: Razzhigaev et al. (2024), sections 3 and 4; leaving out the first positions is not in the paper.
    """
    if not batches:
        raise ValueError("there is no batch to run the model on")
    names = _chain(model, blocks)
    drops = (drop_first,) if isinstance(drop_first, int) else tuple(drop_first)
    if not drops or min(drops) < 0:
        raise ValueError(f"drop_first={drop_first}: numbers of positions, at least 0")
    modes = [(m, m.training) for m in model.modules()]
    found: dict[tuple[int, str], BlockLinearity] = {}
    try:
        model.eval()
        rest, step = names, len(names)
        if max_bytes is not None:
            step = _links_within(model, names, batches[0], max_bytes // len(drops))
        while rest:
            piece, rest = rest[:step], rest[step:]
            chains = _gather(model, piece, batches, drops)
            held = sum(chain.nbytes for chain in chains.values())
            for drop, chain in chains.items():
                for link, name in enumerate(piece):
                    found[drop, name] = _figures(name, drop, chain.pair(link), held)
            del chains, chain  # before the next are made: the cap is on what is held at once
            if held_out:
                for drop, chain in _gather(model, piece, held_out, drops).items():
                    for link, name in enumerate(piece):
                        found[drop, name] = _on_other_text(found[drop, name], chain.pair(link))
                del chain
    finally:
        for module, training in modes:
            module.training = training
    return [found[drop, name] for drop in drops for name in names]


def _figures(name: str, drop: int, stats: PairedStatistics, nbytes: int) -> BlockLinearity:
    fitted = affine_fit(stats)
    square = fitted.weight.shape[0] == fitted.weight.shape[1]
    alone = linearity_score(residual_free(stats)) if square else None
    return BlockLinearity(name, drop, linearity_score(stats), alone, None, None, fitted, stats.count, nbytes)


def _on_other_text(block: BlockLinearity, stats: PairedStatistics) -> BlockLinearity:
    fitted = block.fitted
    alone = None
    if block.without_residual is not None:
        step = AffineMap(fitted.weight - torch.eye(len(fitted.weight), dtype=fitted.weight.dtype), fitted.bias)
        alone = linearity_score(residual_free(stats), step)
    figures = {k: v for k, v in vars(block).items() if k not in ("held_out", "held_out_without_residual")}
    return BlockLinearity(held_out=linearity_score(stats, fitted), held_out_without_residual=alone, **figures)


def _chain(model: nn.Module, blocks: str | Sequence[str]) -> list[str]:
    known = dict(model.named_modules())
    if not isinstance(blocks, str):
        missing = [b for b in blocks if b not in known]
        if missing or not blocks:
            raise ValueError(f"no module is named {missing or '(no name given)'}; some are {list(known)[1:6]}")
        return list(blocks)
    head, _, tail = blocks.partition("*")
    numbered = [
        n for n in known if n.startswith(head) and n.endswith(tail) and n[len(head) : len(n) - len(tail)].isdigit()
    ]
    if not numbered:
        raise ValueError(f"no numbered module matches {blocks!r}; some names are {list(known)[1:6]}")
    return sorted(numbered, key=lambda n: int(n[len(head) : len(n) - len(tail)]))


def _call(model: nn.Module, batch: Batch) -> tuple[Any, Bool[Tensor, "batch length"]]:
    ids = batch if isinstance(batch, Tensor) else batch["input_ids"]
    kept = torch.ones(ids.shape[:2], dtype=torch.bool)
    if isinstance(batch, Tensor):
        return model(batch), kept
    if batch.get("attention_mask") is not None:
        kept = batch["attention_mask"].bool().cpu()
    return model(**batch), kept


def _gather(
    model: nn.Module, names: Sequence[str], batches: Sequence[Batch], drops: Sequence[int]
) -> dict[int, ChainStatistics]:
    chains = {drop: ChainStatistics(len(names)) for drop in drops}
    before = Taps(model, {names[0]: [_Latest()]}, side="in")
    after = Taps(model, {name: [_Latest()] for name in names})
    for batch in batches:
        with torch.no_grad(), before, after:
            _, kept = _call(model, batch)
        rows: list[Tensor] = []
        for taps, name in ((before, names[0]), *((after, name) for name in names)):
            latest = taps[name][0]
            assert isinstance(latest, _Latest)
            assert latest.rows is not None
            rows.append(latest.rows)
        if any(len(r) != kept.numel() for r in rows):
            raise ValueError(
                f"a block shows {[len(r) for r in rows]} positions of a batch of {tuple(kept.shape)}: blocks must keep "
                "the sequence's length"
            )
        for drop, chain in chains.items():
            chosen = kept & (kept.long().cumsum(1) > drop)
            chain.update([r[chosen.flatten()] for r in rows])
    return chains


def _links_within(model: nn.Module, names: Sequence[str], batch: Batch, max_bytes: int) -> int:
    """How many links of a chain have statistics that fit into the memory."""
    with torch.no_grad(), Taps(model, {names[0]: [_Latest()]}) as taps:
        _call(model, batch)
    latest = taps[names[0]][0]
    assert isinstance(latest, _Latest)
    assert latest.rows is not None
    width = latest.rows.shape[1]
    square = 8 * width * (width + 2)  # a matrix and two means, in float64
    links = (max_bytes // square - 1) // 2
    if links < 1:
        raise ValueError(f"max_bytes allows {max_bytes} bytes a profile; one block of width {width} needs {3 * square}")
    return min(links, len(names))
