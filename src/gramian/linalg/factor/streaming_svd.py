"""The leading singular vectors of a matrix that arrives a few rows at a time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["StreamingSVD"]


class StreamingSVD:
    r"""The `rank` leading right singular vectors of all rows seen so far, in memory of order rank · features.

    After n rows the state \((V, s, \mu, n)\) stands for the matrix of those rows, centred. A batch X of m rows
    with mean \(\bar x\) is folded in by a decomposition of the stack

    .. math:: \begin{bmatrix} \mathrm{diag}(s) V^\top \\ X - \bar x \\
              \sqrt{nm/(n+m)}\,(\mu - \bar x)^\top \end{bmatrix},

    whose Gram matrix is that of all n + m centred rows, up to what earlier truncations dropped. With a rank of
    the full width nothing is dropped and the result is exact.

    Args:
        rank: how many vectors are kept.
        center: whether the rows' mean is subtracted (principal components), or not (singular vectors).
        method: ``"exact"`` decomposes every stack; ``"warm"`` runs two subspace iterations on it that start from
            the vectors known so far and a few random ones, which is much faster where the rank is small against
            batch and width; ``"auto"`` picks.
        seed: of the random vectors.

    Attributes:
        components: (kept, features), orthonormal rows; each has its largest entry positive.
        singular_values: (kept,), descending.
        mean: (features,), zeros where nothing is centred.
        count: rows seen.

    Raises:
        ValueError: a rank below 1, an unknown method, rows with NaN or infinity, or of another width.

    Source: Brand (2002), sequential Karhunen–Loève; with the mean: Ross et al., "Incremental Learning for Robust
    Visual Tracking" (2008).

    >>> stream = StreamingSVD(rank=2)
    >>> for rows in torch.randn(100, 8, dtype=torch.float64).split(10):
    ...     stream.update(rows)
    >>> stream.components.shape
    torch.Size([2, 8])
    """

    def __init__(self, rank: int, *, center: bool = True, method: str = "auto", seed: int = 0) -> None:
        if rank < 1:
            raise ValueError(f"rank={rank}: at least one vector is kept")
        if method not in ("auto", "exact", "warm"):
            raise ValueError(f"method={method!r} is not one of auto, exact, warm")
        self.rank, self.center, self.method, self.seed = rank, center, method, seed
        self.count = 0
        self.components: Tensor = torch.zeros(0, 0)
        self.singular_values: Tensor = torch.zeros(0)
        self.mean: Tensor = torch.zeros(0)
        self._energy = 0.0  # the squared norm of all rows, centred
        self._cosines: Tensor = torch.zeros(0)

    def update(self, rows: Float[Tensor, "samples features"]) -> None:
        """Take in a batch of rows; in float32 at least, in float64 if the first batch is."""
        if len(rows) == 0:
            return
        dtype = self.components.dtype if self.count else torch.promote_types(rows.dtype, torch.float32)
        rows = rows.detach().to(dtype)
        if self.count and rows.shape[1] != self.mean.shape[0]:
            raise ValueError(f"rows of width {rows.shape[1]} do not fit earlier ones of width {self.mean.shape[0]}")
        if not bool(torch.isfinite(rows.abs().amax())):
            raise ValueError("the rows hold NaN or infinity")
        mean = rows.mean(0) if self.center else rows.new_zeros(rows.shape[1])
        rows = rows - mean if self.center else rows
        self._take(rows, mean, len(rows), float(rows.square().sum(dtype=torch.float64)))

    def merge(self, other: StreamingSVD) -> None:
        """Take in what another stream has seen, as of another shard.

        Raises:
            ValueError: one is centred and the other is not, or widths differ.
        """
        if other.center != self.center:
            raise ValueError("a centred stream merges with a centred one only")
        if other.count == 0:
            return
        if self.count and other.mean.shape != self.mean.shape:
            raise ValueError(f"widths differ: {self.mean.shape[0]} and {other.mean.shape[0]}")
        dtype = self.components.dtype if self.count else other.components.dtype
        known = (other.singular_values[:, None] * other.components).to(dtype)
        self._take(known, other.mean.to(dtype), other.count, other._energy)

    def _take(self, rows: Tensor, mean: Tensor, count: int, energy: float) -> None:
        """Fold in rows that are centred by `mean` and stand for `count` rows of squared norm `energy`."""
        stack, total = rows, self.count + count
        if self.count:
            parts = [self.singular_values[:, None] * self.components, rows]
            if self.center:
                shift = math.sqrt(self.count * count / total) * (self.mean - mean)
                energy += float(shift.square().sum(dtype=torch.float64))
                parts.append(shift[None])
                mean = self.mean + (mean - self.mean) * (count / total)
            stack = torch.cat(parts)
        values, vectors = self._decompose(stack)
        vectors = vectors * torch.gather(vectors, 1, vectors.abs().argmax(1, keepdim=True)).sign()
        previous, shared = self.components, min(len(self.components), len(vectors))
        cosines = vectors.new_zeros(len(vectors))
        cosines[:shared] = (previous[:shared] * vectors[:shared]).sum(1).abs() if shared else 0.0
        self.components, self.singular_values, self.mean, self._cosines = vectors, values, mean, cosines
        self._energy, self.count = self._energy + energy, total

    def _decompose(self, stack: Tensor) -> tuple[Tensor, Tensor]:
        kept, least = min(self.rank, *stack.shape), min(stack.shape)
        method = self.method
        if method == "auto":
            method = "warm" if 4 * kept <= least else "exact"
        if method == "exact":
            _, s, vh = torch.linalg.svd(stack, full_matrices=False)
            return s[:kept], vh[:kept]
        # subspace iteration: what is known already points at the answer
        width = min(2 * kept + 4, least)
        generator = torch.Generator().manual_seed(self.seed + self.count)
        known = self.components[: width - 1].T
        random = torch.randn(stack.shape[1], width - known.shape[1] if known.numel() else width, generator=generator)
        random = random.to(stack)
        basis = torch.cat((known, random), 1) if known.numel() else random
        for _ in range(2 if known.numel() else 4):
            basis = torch.linalg.qr(stack.T @ (stack @ basis)).Q
        image = stack @ basis
        # the small Gram matrix in float64 keeps the accuracy that squaring costs
        gram = (image.T @ image).double()
        squares, rotation = torch.linalg.eigh(gram)
        order = torch.arange(width - 1, width - 1 - kept, -1, device=gram.device)
        values = squares[order].clamp_min(0).sqrt()  # a Gram matrix has no negative eigenvalue but by rounding
        return values.to(stack.dtype), (basis @ rotation[:, order].to(stack.dtype)).T.contiguous()

    @property
    def explained_ratio(self) -> Float[Tensor, " kept"]:
        """Each component's share of the squared norm of all rows, centred; at most 1 together.

        Raises:
            ValueError: no rows were seen.
        """
        if self.count == 0:
            raise ValueError("no rows were seen yet")
        if self._energy == 0:
            return torch.zeros_like(self.singular_values)
        return self.singular_values.square() / self._energy

    @property
    def explained_variance(self) -> Float[Tensor, " kept"]:
        """The variance along each component, with count − 1 in the denominator (rows, where nothing is centred).

        Raises:
            ValueError: fewer than two rows were seen.
        """
        if self.count < 2:
            raise ValueError(f"a variance needs two rows, {self.count} were seen")
        return self.singular_values.square() / (self.count - 1 if self.center else self.count)

    def settled(self, threshold: float = 0.99) -> Bool[Tensor, " kept"]:
        """Whether the last update turned each component by a cosine of at least `threshold`.

        Raises:
            ValueError: a threshold outside (0, 1].
        """
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} is a cosine above 0 and at most 1")
        return self._cosines >= threshold

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return sum(t.nbytes for t in (self.components, self.singular_values, self.mean, self._cosines))
