"""Few-shot classification by nearest class means: what features are worth for classes with a handful of examples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.analysis.geometry.collapse import nearest_mean

__all__ = ["FewShot", "episodes", "few_shot_accuracy"]


class FewShot(NamedTuple):
    """Accuracy over episodes.

    Attributes:
        mean: over the episodes.
        standard_error: of the mean.
        accuracies: of each episode.
    """

    mean: float
    standard_error: float
    accuracies: Float[Tensor, " episodes"]


def episodes(
    labels: Int[Tensor, " samples"],
    ways: int,
    shots: int,
    queries: int,
    count: int,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "count ways shots"], Int[Tensor, "count ways queries"]]:
    """Row numbers of `count` random episodes: `ways` classes, of each `shots` rows to learn and `queries` to test.

    Classes and rows are drawn uniformly without replacement within an episode.

    Raises:
        ValueError: a number below 1, more ways than classes, or a class with too few rows.
    """
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("count", count)):
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    names, sizes = labels.unique(return_counts=True)
    if ways > len(names):
        raise ValueError(f"ways={ways}, but there are only {len(names)} classes")
    need = shots + queries
    if int(sizes.min()) < need:
        raise ValueError(
            f"an episode takes {shots} + {queries} rows of a class, but class {int(names[sizes.argmin()])} has "
            f"{int(sizes.min())}"
        )
    # rows sorted by class; a class's places beyond its size get a key that is never among the smallest
    order, starts = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    chosen = torch.rand(count, len(names), generator=generator).argsort(1)[:, :ways]
    keys = torch.rand(count, ways, int(sizes.max()), generator=generator)
    keys = keys.masked_fill(torch.arange(keys.shape[-1]) >= sizes[chosen][..., None], 2.0)
    rows = order[starts[chosen][..., None] + keys.argsort(-1)[..., :need]]
    return rows[..., :shots], rows[..., shots:]


def few_shot_accuracy(
    features: Float[Tensor, "samples features"],
    labels: Int[Tensor, " samples"],
    *,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    count: int = 200,
    generator: torch.Generator | None = None,
) -> FewShot:
    """Accuracy of the nearest class mean, the means taken from a few rows of each class.

    Args:
        ways: classes in an episode.
        shots: rows of each class whose mean stands for it.
        queries: rows of each class to classify.
        count: episodes.
        generator: source of the episodes.

    Raises:
        ValueError: NaN among the features, one episode (no standard error), or what `episodes` raises.

    Source: Galanti, György & Hutter (2021), section 2.
    """
    if not bool(torch.isfinite(features).all()):
        raise ValueError("the features hold NaN or infinite numbers")
    if count < 2:
        raise ValueError(f"count={count}: at least two episodes tell how much the accuracy varies")
    learn, test = episodes(labels, ways, shots, queries, count, generator)
    kind = torch.promote_types(features.dtype, torch.float32)
    x = features.to(kind)
    means = x[learn].mean(2)
    found = nearest_mean(means, x[test].flatten(1, 2))
    right = found == torch.arange(ways).repeat_interleave(queries)
    accuracies = right.double().mean(1)
    return FewShot(float(accuracies.mean()), float(accuracies.std() / count**0.5), accuracies)
