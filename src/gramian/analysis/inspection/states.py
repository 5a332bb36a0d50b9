"""What the blocks of a network hand on: in how many directions, how linear each is, whether classes collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gramian.analysis.geometry.collapse import nc1
from gramian.analysis.geometry.dimension import intrinsic_dimension
from gramian.analysis.geometry.linearity_profile import BlockLinearity, linearity_profile
from gramian.analysis.geometry.statistics import ClassStatistics
from gramian.analysis.inspection.activations import evaluated
from gramian.analysis.reducers import Covariance, Keep, Reservoir
from gramian.analysis.taps import Taps
from gramian.lab import progress_bar

FIRST = 4
"""Positions at the start of a text that are also left out: language models park huge states there."""
_POINTS = 1500


@dataclass(frozen=True)
class State:
    r"""What one block hands on.

    Attributes:
        name: the block.
        depth: its number.
        samples: positions (of texts without the first `FIRST`) or places of pictures that were seen.
        width: features.
        effective_rank: exponential of the entropy of the covariance's eigenvalues.
        top_share: the largest eigenvalue over their sum.
        dimension: intrinsic dimension by the two nearest neighbours, of up to 1,500 samples; None for fewer than 20.
        linearity: of the block as a function of its input, 1 for an affine map; None for pictures, and for texts with
            fewer than three positions a feature.
        linearity_inside: the same without the first positions.
        linearity_added: of what the block adds to its input, without the first positions.
        within_over_between: NC1 of the features averaged over places, where classes are known; 0 is collapse.
    """

    name: str
    depth: int
    samples: int
    width: int
    effective_rank: float
    top_share: float
    dimension: float | None
    linearity: float | None = None
    linearity_inside: float | None = None
    linearity_added: float | None = None
    within_over_between: float | None = None


def blocks_of(model: nn.Module) -> list[str]:
    """The names of the blocks of a network: the children of the list of modules that holds most parameters.

    Empty where no list holds at least two children and half of the parameters outside embeddings.
    """
    inner = sum(
        p.numel() for m in model.modules() if not isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)
    )
    best, most = "", 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) >= 2:
            size = sum(p.numel() for p in module.parameters())
            if size > most:
                best, most = name, size
    if not most or 2 * most < inner:
        return []
    holder = model.get_submodule(best)
    return [f"{best}.{child}" if best else child for child, _ in holder.named_children()]


def inspect_states(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    masks: Sequence[Tensor | None] | None = None,
    labels: Sequence[Tensor] | None = None,
    *,
    show_progress: bool | None = None,
) -> list[State]:
    """Describe what every block hands on while the model reads the batches, without keeping it.

    Texts are read twice (once for the linearity of neighbouring blocks), pictures once. The model is run in
    evaluation mode and gets its own mode back.

    Args:
        masks: for each batch which positions are real; None where all are.
        labels: for each batch the classes of its pictures, counted from 0.

    Returns:
        one a block; none for a network without a list of blocks.

    Raises:
        ValueError: no batch, or labels of another number than pictures.
    """
    if not batches:
        raise ValueError("no batch to run the model on")
    names = blocks_of(model)
    if not names:
        return []
    marks = list(masks) if masks else [None] * len(batches)
    with evaluated(model), torch.no_grad():
        texts = "input_ids" in batches[0]
        taps = Taps(
            model, {n: [Covariance(), Reservoir(_POINTS)] for n in names}, reduce="tokens" if texts else "places"
        )
        pooled = Taps(model, {n: [Keep()] for n in names}, reduce="gap") if labels is not None else None
        for batch, mask in progress_bar(list(zip(batches, marks)), "states", show=show_progress):
            taps.mask = _without_first(batch, mask) if texts else None
            with taps:
                if pooled is None:
                    model(**batch)
                else:
                    with pooled:
                        model(**batch)
        lines = _linearity(model, names, batches, marks) if texts else {}
    found = []
    for depth, name in enumerate(names):
        covariance, reservoir = taps[name]
        assert isinstance(covariance, Covariance)
        assert isinstance(reservoir, Reservoir)
        values = torch.linalg.eigvalsh(covariance.covariance).clamp(min=0)
        shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
        whole, inside = lines.get(name, (None, None))
        found.append(
            State(
                name, depth, covariance.count, len(values),
                effective_rank=float(torch.special.entr(shares).sum().exp()),
                top_share=float(shares[-1]),
                dimension=_dimension(reservoir.rows),
                linearity=whole.score if whole else None,
                linearity_inside=inside.score if inside else None,
                linearity_added=inside.without_residual if inside else None,
                within_over_between=_collapse(pooled[name][0], labels) if pooled and labels else None,
            )
        )  # fmt: skip
    return found


def _without_first(batch: dict[str, Tensor], mask: Tensor | None) -> Tensor:
    shape = batch["input_ids"].shape
    real = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
    return real & (real.long().cumsum(1) > FIRST)


def _linearity(
    model: nn.Module, names: list[str], batches: Sequence[dict[str, Tensor]], masks: list[Tensor | None]
) -> dict[str, tuple[BlockLinearity, BlockLinearity]]:
    """Both profiles of each block, where there are at least three positions for every feature."""
    with Taps(model, {names[0]: [Covariance()]}) as probe:
        model(**batches[0])
    first = probe[names[0]][0]
    assert isinstance(first, Covariance)
    kept = sum(int(_without_first(b, m).sum()) for b, m in zip(batches, masks, strict=True))
    if kept < 3 * len(first.mean):
        return {}
    given = [b if m is None or "attention_mask" in b else {**b, "attention_mask": m} for b, m in zip(batches, masks)]
    profile = linearity_profile(model, given, names, drop_first=(0, FIRST))
    half = len(profile) // 2
    return {a.name: (a, b) for a, b in zip(profile[:half], profile[half:], strict=True)}


def _dimension(points: Tensor) -> float | None:
    single = torch.unique(points.double(), dim=0)  # flat places of pictures repeat each other
    return intrinsic_dimension(single) if len(single) >= 20 else None


def _collapse(kept: object, labels: Sequence[Tensor]) -> float | None:
    assert isinstance(kept, Keep)
    classes = torch.cat(list(labels))
    if len(classes) != len(kept.rows):
        raise ValueError(f"{len(classes)} labels for {len(kept.rows)} pictures")
    counts = classes.bincount()
    if len(counts) < 2 or int(counts.min()) < 2:
        return None
    stats = ClassStatistics(len(counts))
    stats.update(kept.rows, classes)
    return float(nc1(stats, "trace"))
