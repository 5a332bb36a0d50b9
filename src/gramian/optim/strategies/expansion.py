r"""Progressive data expansion: begin with as many samples of every group, then add others a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gramian.optim.fit import Loss, fit, parameter_groups
from gramian.optim.memory import History

__all__ = ["ExpandingBatches", "ProgressiveExpansion", "fit_expanding"]


class ProgressiveExpansion:
    """Which samples an epoch of training sees.

    Until epoch `start` it is a random subset in which every group has as many samples as the smallest group. At epoch
    `start`, and every `interval` epochs after it, `add_num` random samples that were not used so far join, of whatever
    group, until all are in. The answer depends on the epoch and the draw alone: any loop can ask, in any order.

    Args:
        groups: the group of every sample; numbers need not be consecutive.
        start: first epoch (counted from 0) that sees more than the balanced subset.
        interval: epochs between two additions.
        add_num: samples an addition.
        count: of groups, where an empty one shall be noticed; every number below it must occur.
        generator: draws the order; without one torch's global generator.

    Raises:
        ValueError: no sample, an empty group, or start, interval or add_num too small.

    Source: Deng, Yang, Mirzasoleiman and Gu, "Robust Learning with Progressive Data Expansion Against Spurious
    Correlation" (2023), algorithm 1.

    >>> order = ProgressiveExpansion(torch.tensor([0, 0, 0, 0, 1, 1]), start=2, interval=3, add_num=1)
    >>> [len(order.rows(epoch)) for epoch in range(7)]
    [4, 4, 5, 5, 5, 6, 6]
    """

    def __init__(
        self,
        groups: Int[Tensor, " samples"],
        start: int,
        interval: int,
        add_num: int,
        *,
        count: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not len(groups):
            raise ValueError("no sample was given")
        if start < 1:
            raise ValueError(f"start={start}: at least one epoch must see the balanced subset")
        if interval < 1 or add_num < 1:
            raise ValueError(f"interval={interval} and add_num={add_num} must be at least 1")
        names, sizes = groups.unique(return_counts=True)
        if count is not None and names.tolist() != list(range(count)):
            raise ValueError(f"groups {names.tolist()} occur, 0 … {count - 1} must: an empty group cannot be balanced")
        self.start, self.interval, self.add_num = start, interval, add_num
        smallest = int(sizes.min())
        order = torch.randperm(len(groups), generator=generator)
        shuffled = groups[order]
        first = torch.cat([order[shuffled == name][:smallest] for name in names])
        used = torch.zeros(len(groups), dtype=torch.bool)
        used[first] = True
        self.balanced = len(first)
        self.order = torch.cat((first, order[~used[order]]))

    def used(self, epoch: int) -> int:
        """How many samples an epoch sees."""
        if epoch < 0:
            raise ValueError(f"epoch={epoch} must not be negative")
        additions = 0 if epoch < self.start else 1 + (epoch - self.start) // self.interval
        return min(self.balanced + additions * self.add_num, len(self.order))

    def rows(self, epoch: int) -> Int[Tensor, " used"]:
        """The samples that an epoch sees, those of earlier epochs first."""
        return self.order[: self.used(epoch)]


class ExpandingBatches:
    """Batches for a fit loop: every pass is the next epoch of an expansion, newly shuffled.

    Args:
        tensors: samples, of one length.
        expansion: decides what an epoch sees.
        batch_size: None takes an epoch in one batch.
        epoch: with which the first pass begins.
        seed: of the shuffling.

    Raises:
        ValueError: tensors whose length is not that of the expansion, or a batch size below 1.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        expansion: ProgressiveExpansion,
        batch_size: int | None = 32,
        *,
        epoch: int = 0,
        seed: int = 0,
    ) -> None:
        lengths = {len(t) for t in tensors}
        if lengths != {len(expansion.order)}:
            raise ValueError(f"tensors of lengths {sorted(lengths)} do not fit the {len(expansion.order)} samples")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1, or None for whole epochs")
        self.tensors, self.expansion, self.batch_size = tuple(tensors), expansion, batch_size
        self.epoch, self.seed = epoch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        rows = self.expansion.rows(self.epoch)
        shuffle = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows = rows[torch.randperm(len(rows), generator=shuffle)]
        self.epoch += 1
        for chosen in rows.split(self.batch_size or len(rows)):
            yield tuple(t[chosen] for t in self.tensors)


def fit_expanding(
    module: nn.Module,
    tensors: Sequence[Tensor],
    loss: Loss,
    expansion: ProgressiveExpansion,
    *,
    epochs: int,
    lr: float,
    decay: float | int = 1.0,
    weight_decay: float | int = 0.0,
    batch_size: int | None = 32,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
    seed: int = 0,
    **settings: Any,
) -> tuple[History, History | None]:
    """Train on the balanced subset, then on the growing one, with one optimizer: its momentum is kept.

    Args:
        tensors: what the loss is given a batch of, of one length.
        epochs: in all, those on the balanced subset among them.
        lr: before the expansion.
        decay: what the learning rate is multiplied by when the expansion begins.
        optimizer: parameter groups → optimizer; SGD with momentum 0.9 by default.
        settings: of `gramian.optim.fit.fit`, for both stages; with ``validation=`` and ``monitor="-worst group"`` each
            stage ends with its best weights.

    Returns:
        The histories of the two stages; the second is None where `epochs` ends before the expansion.

    Raises:
        ValueError: epochs below 1, or a decay that is not positive.
    """
    if epochs < 1:
        raise ValueError(f"epochs={epochs} must be at least 1")
    if not 0 < decay < float("inf"):
        raise ValueError(f"decay={decay} must be positive and finite")
    groups = parameter_groups(module, lr, weight_decay)
    tuner = torch.optim.SGD(groups, lr=lr, momentum=0.9) if optimizer is None else optimizer(groups)
    batches = ExpandingBatches(tensors, expansion, batch_size, seed=seed)
    settings = {"lr": lr, "weight_decay": weight_decay, "optimizer": lambda _: tuner, **settings}
    first = fit(module, batches, loss, epochs=min(epochs, expansion.start), **settings)
    if epochs <= expansion.start:
        return first, None
    for group in tuner.param_groups:
        group["lr"] = group["initial_lr"] = group["initial_lr"] * decay
    return first, fit(module, batches, loss, epochs=epochs - expansion.start, **settings)
