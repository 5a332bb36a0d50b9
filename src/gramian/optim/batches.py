"""Where a fit loop's batches come from: tensors, a loader, or a function that draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Data = Tensor | Sequence[Tensor] | Iterable[Any] | Callable[[torch.Generator], Any]
"""Tensors of one length, an iterable of batches that can be iterated again, or a function of a generator."""


class Batches:
    """The rounds of a fit: one pass over the data each, split over the processes.

    Tensors are shuffled by the round's seed, which all processes share, and every global batch is cut
    into one share a process, so that two processes take the same steps as one. A
    `torch.utils.data.DataLoader` is split by accelerate (and shuffles with its own generator). A function
    draws `per_round` times from a generator of its process's own.

    Each batch comes with its share's weight: share · processes / whole batch, which makes the mean of
    the processes' weighted losses the loss of the whole batch.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        shuffle: bool,
        per_round: int | None = None,
        process: int = 0,
        processes: int = 1,
        prepare: Callable[[Any], Any] = lambda loader: loader,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        self.batch_size, self.shuffle = batch_size, shuffle
        self.process, self.processes = process, processes
        self.tensors: tuple[Tensor, ...] | None = None
        self.draw: Callable[[torch.Generator], Any] | None = None
        self.loader: Iterable[Any] = ()
        self.length: int | None
        if isinstance(data, Tensor) or (isinstance(data, (tuple, list)) and data and isinstance(data[0], Tensor)):
            self.tensors = (data,) if isinstance(data, Tensor) else tuple(data)
            sizes = {len(t) for t in self.tensors}
            if len(sizes) != 1 or 0 in sizes:
                raise ValueError(f"the tensors must have one and the same length, not {[len(t) for t in self.tensors]}")
            self.length = -(-sizes.pop() // batch_size)
        elif isinstance(data, Iterable):
            if iter(data) is data:
                raise ValueError("data is an iterator, which is spent after one round; give a list or a DataLoader")
            if processes > 1 and not isinstance(data, torch.utils.data.DataLoader):
                raise ValueError("under torchrun, give tensors, a DataLoader or a function that draws batches")
            self.loader = prepare(data)
            self.length = len(self.loader) if hasattr(self.loader, "__len__") else None
            if self.length == 0:
                raise ValueError("the data hold no batch")
        elif callable(data):
            if per_round is None:
                raise ValueError("data that are drawn by a function have no epochs: give steps=")
            self.draw, self.length = data, per_round
        else:
            raise TypeError(f"data of type {type(data).__name__}: give tensors, batches, or a function that draws them")

    def round(self, seed: int) -> Iterator[tuple[tuple[Any, ...], float, int]]:
        """One pass, fixed by `seed`: (batch, weight, size of the whole batch)."""
        if self.tensors is not None:
            yield from self._slices(torch.Generator().manual_seed(seed))
            return
        batches: Iterable[Any] = self.loader
        if self.draw is not None:
            generator = torch.Generator().manual_seed(seed + (self.process << 40))
            batches = (self.draw(generator) for _ in range(self.length or 0))
        for batch in batches:
            yield _as_tuple(batch), 1.0, _size(batch) * self.processes

    def _slices(self, generator: torch.Generator) -> Iterator[tuple[tuple[Any, ...], float, int]]:
        tensors = self.tensors or ()
        size = len(tensors[0])
        order = torch.randperm(size, generator=generator) if self.shuffle else torch.arange(size)
        for chosen in order.split(self.batch_size):
            share = chosen[self.process :: self.processes]
            weight = len(share) * self.processes / len(chosen)
            if not len(share):  # this process has nothing to add, but must take part in the reduction
                share = chosen[:1]
            yield tuple(t[share.to(t.device)] for t in tensors), weight, len(chosen)


def _as_tuple(batch: Any) -> tuple[Any, ...]:
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _size(batch: Any) -> int:
    first = _as_tuple(batch)[0]
    return len(first) if isinstance(first, Tensor) and first.ndim else 1
