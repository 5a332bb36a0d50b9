"""Sketches for taps: leading directions and quantiles of activations, in bounded memory, mergeable."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.analysis.reducers import Reducer
from gramian.linalg.factor.streaming_svd import StreamingSVD

__all__ = ["PrincipalComponents", "Quantiles"]


class PrincipalComponents(Reducer):
    """The leading principal components of the features, by a streaming singular value decomposition.

    Unlike the other reducers it works in the features' own precision (float32 at least), and what it keeps
    depends a little on how the samples were batched, unless `rank` is the full width.

    Args:
        rank: how many components.
        center: whether the mean is subtracted.
        method, seed: as `StreamingSVD` takes them.

    Attributes:
        svd: the stream; its components, singular_values, explained_ratio and settled(cosine).
        paused: while True, updates are passed over.
    """

    def __init__(self, rank: int, *, center: bool = True, method: str = "auto", seed: int = 0) -> None:
        super().__init__()
        self.svd = StreamingSVD(rank, center=center, method=method, seed=seed)
        self.paused = False

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        if not self.paused:
            self.svd.update(x)
            self.count = self.svd.count

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, PrincipalComponents)
        self.svd.merge(other.svd)
        self.count = self.svd.count

    @property
    def components(self) -> Float[Tensor, "kept features"]:
        """The components, leading first, with orthonormal rows."""
        self._seen()
        return self.svd.components

    @property
    def nbytes(self) -> int:
        return self.svd.nbytes


class Quantiles(Reducer):
    r"""Quantiles of |x|, of all features together or of each, to a relative error, from counts in fixed bins.

    Sizes are counted in bins that grow geometrically, \([\gamma^i, \gamma^{i+1})\) with
    \(\gamma = (1+\epsilon)/(1-\epsilon)\); a bin's answer \(2\gamma^{i+1}/(1+\gamma)\) is off by the share
    \(\epsilon\) of it at most. Counts add up: merging two sketches is exact, and batching does not matter.

    Args:
        per: ``"layer"``: one distribution; ``"feature"``: one for each feature.
        relative_error: ε.
        smallest: sizes below it count as zero.
        largest: sizes above it are refused.

    Raises:
        ValueError: an unknown `per`, ε outside (0, 1), not 0 < smallest < largest.

    Source: Masson et al., "DDSketch" (2019).

    >>> sketch = Quantiles()
    >>> sketch.update(torch.linspace(-1, 1, 2001)[:, None])
    >>> abs(float(sketch.quantile(0.5)) - 0.5) < 0.01
    True
    """

    def __init__(
        self, per: str = "layer", relative_error: float = 0.01, smallest: float = 1e-8, largest: float = 1e8
    ) -> None:
        super().__init__()
        if per not in ("layer", "feature"):
            raise ValueError(f"per={per!r} is neither 'layer' nor 'feature'")
        if not 0 < relative_error < 1:
            raise ValueError(f"relative_error={relative_error} must be between 0 and 1")
        if not 0 < smallest < largest < math.inf:
            raise ValueError(f"bins need 0 < smallest < largest, got {smallest} and {largest}")
        self.per, self.relative_error, self.smallest, self.largest = per, relative_error, smallest, largest
        self._step = math.log1p(relative_error) - math.log1p(-relative_error)
        # bin 0 holds zeros
        self._bins = 2 + math.ceil((math.log(largest) - math.log(smallest)) / self._step)
        self._counts = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        rows = 1 if self.per == "layer" else x.shape[1]
        if self.count and rows != len(self._counts):
            raise ValueError(f"a batch of {rows} features does not fit earlier ones of {len(self._counts)}")
        size = x.detach().abs().double()
        if size.numel() and not bool(size.amax() <= self.largest):  # NaN compares false
            raise ValueError(
                f"an activation of size {float(size.amax())} is above largest={self.largest:g} (or NaN): raise largest="
            )
        index = 1 + ((size / self.smallest).clamp_min(1e-300).log() / self._step).floor().long()
        index = torch.where(size < self.smallest, 0, index.clamp(1, self._bins - 1))
        if self.per == "feature":
            index = index + self._bins * torch.arange(rows, device=index.device)
        counts = torch.bincount(index.flatten(), minlength=rows * self._bins).view(rows, self._bins)
        self._counts = counts if self.count == 0 else self._counts + counts
        self.count += len(x)

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Quantiles)
        mine = (self.per, self.relative_error, self.smallest, self.largest)
        theirs = (other.per, other.relative_error, other.smallest, other.largest)
        if mine != theirs:
            raise ValueError(f"the sketches' bins differ: {mine} and {theirs}")
        if other.count:
            self._counts = other._counts if self.count == 0 else self._counts + other._counts
            self.count += other.count

    def quantile(self, share: float) -> Float[Tensor, "..."]:
        """The size that this share of the values does not exceed: a scalar, or one for each feature.

        Of n values it is the one at place ⌊share · (n − 1)⌋ in ascending order, to the relative error.

        Raises:
            ValueError: a share outside [0, 1], or nothing was seen.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} must be between 0 and 1")
        self._seen()
        below = self._counts.cumsum(1)
        place = torch.floor(share * (below[:, -1:] - 1).double()).long()
        found = torch.searchsorted(below, place, right=True)[:, 0]
        middle = self.smallest * torch.exp((found - 1).double() * self._step) * (1 + self.relative_error)
        values = torch.where(found == 0, 0.0, middle)
        return values[0] if self.per == "layer" else values

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes
