"""Long-tailed subsets: class sizes that fall exponentially, as benchmarks of imbalanced learning have them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["exponential_counts", "long_tailed_rows"]


def exponential_counts(largest: int, ratio: float, classes: int) -> list[int]:
    r"""Class sizes \(n_k = n_{\max}\,\rho^{-k/(K-1)}\), rounded down, from the largest to the largest over `ratio`.

    Raises:
        ValueError: fewer than two classes, a ratio below 1, or a last class without a sample.

    >>> exponential_counts(100, 50, 10)
    [100, 64, 41, 27, 17, 11, 7, 4, 3, 2]
    """
    if classes < 2 or ratio < 1:
        raise ValueError(f"classes={classes} must be at least 2 and ratio={ratio} at least 1")
    if largest < ratio:
        raise ValueError(f"largest={largest} over ratio={ratio} leaves the last class without a sample")
    # the tiny excess keeps a whole number whole: 100 · 50^(-1) is 2 and not 1.999…
    return [int(largest * ratio ** (-k / (classes - 1)) + 1e-9) for k in range(classes)]


def long_tailed_rows(
    labels: Int[Tensor, " samples"], counts: list[int], generator: torch.Generator | None = None
) -> Int[Tensor, " kept"]:
    """Row numbers of a random subset with `counts[k]` rows of class k, in random order.

    Raises:
        ValueError: a class with fewer rows than asked for.
    """
    rows = []
    for k, count in enumerate(counts):
        of_class = (labels == k).nonzero()[:, 0]
        if len(of_class) < count:
            raise ValueError(f"class {k} has {len(of_class)} rows, {count} are asked for")
        rows.append(of_class[torch.randperm(len(of_class), generator=generator)[:count]])
    kept = torch.cat(rows)
    return kept[torch.randperm(len(kept), generator=generator)]
