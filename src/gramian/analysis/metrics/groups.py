"""Accuracy by groups of samples, and that of the worst."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["WorstGroup", "group_accuracy", "worst_group"]


class WorstGroup(NamedTuple):
    """The group in which the fewest are right, and how many of it are."""

    group: int
    accuracy: float


def group_accuracy(
    right: Bool[Tensor, " samples"], groups: Int[Tensor, " samples"], count: int | None = None
) -> Float[Tensor, " groups"]:
    """The share of samples that are right, of each group 0 … count − 1.

    Raises:
        ValueError: no sample, negative groups, or an empty group: its accuracy does not exist.

    >>> group_accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]))
    tensor([0.5000, 1.0000])
    """
    if not len(groups) or int(groups.min()) < 0:
        raise ValueError("samples of groups 0, 1, … are needed")
    sizes = torch.bincount(groups, minlength=count or 0)
    empty = (sizes == 0).nonzero()[:, 0].tolist()
    if empty or (count is not None and len(sizes) > count):
        raise ValueError(f"groups of sizes {sizes.tolist()}: each of 0 … {(count or len(sizes)) - 1} needs a sample")
    found = torch.bincount(groups, weights=right.double(), minlength=len(sizes)) / sizes
    return found.to(torch.get_default_dtype())


def worst_group(
    right: Bool[Tensor, " samples"], groups: Int[Tensor, " samples"], count: int | None = None
) -> WorstGroup:
    """The group with the lowest accuracy, the first of several.

    Raises:
        ValueError: as `group_accuracy`.

    >>> worst_group(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]))
    WorstGroup(group=0, accuracy=0.5)
    """
    found = group_accuracy(right, groups, count)
    return WorstGroup(int(found.argmin()), float(found.min()))
