"""Streaming reducers: what a tap keeps of the activations that pass it, in bounded memory.

A reducer takes feature matrices (samples, features) one batch at a time, accumulates in float64, does not
depend on how the samples were batched, and merges with another of its kind (of another shard).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class Reducer(ABC):
    """What is kept of a stream of feature matrices.

    Attributes:
        count: how many samples it has seen.
    """

    def __init__(self) -> None:
        self.count = 0

    @abstractmethod
    def update(self, x: Float[Tensor, "samples features"]) -> None:
        """Take in a batch."""

    @abstractmethod
    def merge(self, other: Reducer) -> None:
        """Take in what another reducer of the same kind has seen."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """The memory that it holds."""

    def _same_kind(self, other: Reducer) -> None:
        if type(other) is not type(self):
            raise TypeError(f"a {type(self).__name__} merges with its like, not with a {type(other).__name__}")

    def _seen(self) -> None:
        if self.count == 0:
            raise ValueError(f"this {type(self).__name__} has seen no sample: run the model inside the taps first")


class Moments(Reducer):
    """Mean and variance of every feature, by Chan's merge of batch moments."""

    def __init__(self) -> None:
        super().__init__()
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._squares = torch.zeros(0, dtype=torch.float64)

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        x = x.double()
        mean = x.mean(0)
        self._take(len(x), mean, (x - mean).square().sum(0))

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Moments)
        if other.count:
            self._take(other.count, other._mean, other._squares)

    def _take(self, count: int, mean: Tensor, squares: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean, self._squares = count, mean, squares
            return
        total, shift = self.count + count, mean - self._mean
        self._mean = self._mean + shift * (count / total)
        self._squares = self._squares + squares + _outer_like(shift, squares) * (self.count * count / total)
        self.count = total

    @property
    def mean(self) -> Float[Tensor, " features"]:
        """The mean of each feature."""
        self._seen()
        return self._mean

    @property
    def variance(self) -> Float[Tensor, " features"]:
        """The variance of each feature, with `count` in the denominator."""
        self._seen()
        return self._squares / self.count

    @property
    def nbytes(self) -> int:
        return self._mean.nbytes + self._squares.nbytes


class Covariance(Moments):
    """Mean and covariance matrix of the features."""

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        x = x.double()
        mean = x.mean(0)
        centred = x - mean
        self._take(len(x), mean, centred.T @ centred)

    @property
    def covariance(self) -> Float[Tensor, "features features"]:
        """The covariance matrix, with `count` in the denominator."""
        self._seen()
        return self._squares / self.count

    @property
    def variance(self) -> Float[Tensor, " features"]:
        return self.covariance.diagonal()

    @property
    def second_moment(self) -> Float[Tensor, "features features"]:
        """The mean of the outer products, not centred."""
        return self.covariance + torch.outer(self._mean, self._mean)


class ZeroCount(Reducer):
    """How often each feature is zero, or at most `threshold` in size."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        if threshold < 0:
            raise ValueError(f"threshold={threshold} is negative; a size is at least zero")
        self.threshold = threshold
        self._zeros = torch.zeros(0, dtype=torch.int64)

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        zeros = (x.abs() <= self.threshold).sum(0)
        self._zeros = zeros if self.count == 0 else self._zeros + zeros
        self.count += len(x)

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, ZeroCount)
        if other.threshold != self.threshold:
            raise ValueError(f"thresholds differ: {self.threshold} and {other.threshold}")
        if other.count:
            self._zeros = other._zeros if self.count == 0 else self._zeros + other._zeros
            self.count += other.count

    @property
    def sparsity(self) -> Float[Tensor, " features"]:
        """The fraction of samples in which each feature is zero."""
        self._seen()
        return self._zeros.double() / self.count

    @property
    def nbytes(self) -> int:
        return self._zeros.nbytes


class Reservoir(Reducer):
    """A uniform sample of `size` rows of the stream, in its order of arrival within the reservoir.

    Every row gets a random key and the rows of the smallest keys stay; keys make two reservoirs mergeable.
    """

    def __init__(self, size: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size}: a reservoir holds at least one row")
        self.size = size
        self._generator = generator or torch.Generator().manual_seed(0)
        self._keys = torch.zeros(0, dtype=torch.float64)
        self._rows: Tensor | None = None

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        keys = torch.rand(len(x), generator=self._generator, dtype=torch.float64)
        self._take(keys, x.detach().cpu().clone(), len(x))

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Reservoir)
        if other._rows is not None:
            self._take(other._keys, other._rows, other.count)

    def _take(self, keys: Tensor, rows: Tensor, count: int) -> None:
        keys = torch.cat((self._keys, keys))
        rows = rows if self._rows is None else torch.cat((self._rows, rows.to(self._rows.dtype)))
        kept = keys.argsort(stable=True)[: self.size].sort().values
        self._keys, self._rows = keys[kept], rows[kept]
        self.count += count

    @property
    def rows(self) -> Float[Tensor, "kept features"]:
        """The sample: at most `size` rows."""
        self._seen()
        assert self._rows is not None
        return self._rows

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + (0 if self._rows is None else self._rows.nbytes)


class Keep(Reducer):
    """Every row that passes: for short inputs, or under the tap's memory cap."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[Tensor] = []

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        self._parts.append(x.detach().cpu().clone())
        self.count += len(x)

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Keep)
        self._parts += other._parts
        self.count += other.count

    @property
    def rows(self) -> Float[Tensor, "samples features"]:
        """All rows, in their order."""
        self._seen()
        return torch.cat(self._parts)

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self._parts)


def _outer_like(shift: Tensor, like: Tensor) -> Tensor:
    return torch.outer(shift, shift) if like.ndim == 2 else shift.square()
