"""Two streams of features of the same samples: means, covariances and what lies between, in bounded memory."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gramian.analysis.reducers import Covariance

__all__ = ["CrossCovariance", "PairedStatistics"]


class CrossCovariance:
    r"""\(\frac1n\sum_i (x_i - \bar x)(y_i - \bar y)^\top\) of two streams, in float64, by Chan's merge.

    Neither the order nor the size of the batches matters, and two objects of two shards merge.

    Attributes:
        count: samples seen.

    Raises:
        ValueError: in `update`, different numbers of samples, or NaN; reading it before any sample.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean_x = self._mean_y = torch.zeros(0, dtype=torch.float64)
        self._products = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, x: Float[Tensor, "samples features"], y: Float[Tensor, "_ others"]) -> None:
        """Take in a batch: the features of the same samples in two places."""
        if len(x) != len(y):
            raise ValueError(f"{len(x)} and {len(y)} samples: both sides show the same samples, in the same order")
        if len(x) == 0:
            return
        x, y = x.detach().double(), y.detach().double()
        if not bool(torch.isfinite(x.sum() + y.sum())):
            raise ValueError("the features hold NaN or infinite numbers")
        mean_x, mean_y = x.mean(0), y.mean(0)
        self._take(len(x), mean_x, mean_y, (x - mean_x).T @ (y - mean_y))

    def merge(self, other: CrossCovariance) -> None:
        """Take in what another object has seen."""
        if other.count:
            self._take(other.count, other._mean_x, other._mean_y, other._products)

    def _take(self, count: int, mean_x: Tensor, mean_y: Tensor, products: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean_x, self._mean_y, self._products = count, mean_x, mean_y, products
            return
        if products.shape != self._products.shape:
            raise ValueError(f"features of {tuple(products.shape)} do not join those of {tuple(self._products.shape)}")
        total = self.count + count
        shift_x, shift_y = mean_x - self._mean_x, mean_y - self._mean_y
        self._products = self._products + products + torch.outer(shift_x, shift_y) * (self.count * count / total)
        self._mean_x = self._mean_x + shift_x * (count / total)
        self._mean_y = self._mean_y + shift_y * (count / total)
        self.count = total

    @property
    def covariance(self) -> Float[Tensor, "features others"]:
        """The cross-covariance, with `count` in the denominator."""
        if self.count == 0:
            raise ValueError("no sample was seen yet: update first")
        return self._products / self.count

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return self._mean_x.nbytes + self._mean_y.nbytes + self._products.nbytes


class PairedStatistics:
    """Means, covariances and correlations of two feature streams x and y of the same samples.

    Attributes:
        x, y: the statistics of each side (mean, covariance, variance).
        cross: what lies between them.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]])
    >>> stats = PairedStatistics()
    >>> stats.update(x, x[:, :1] * 2)
    >>> [round(float(r), 3) for r in stats.correlation]
    [1.0, 0.5]
    """

    def __init__(self) -> None:
        self.x, self.y, self.cross = Covariance(), Covariance(), CrossCovariance()

    def update(self, x: Float[Tensor, "samples features"], y: Float[Tensor, "_ others"]) -> None:
        """Take in a batch.

        Raises:
            ValueError: different numbers of samples, or NaN.
        """
        self.cross.update(x, y)  # it looks at both before anything changes
        if len(x):
            self.x.update(x.detach())
            self.y.update(y.detach())

    def merge(self, other: PairedStatistics) -> None:
        """Take in what another object has seen."""
        for mine, theirs in ((self.cross, other.cross), (self.x, other.x), (self.y, other.y)):
            mine.merge(theirs)  # type: ignore[arg-type]

    @property
    def count(self) -> int:
        """Samples seen."""
        return self.cross.count

    @property
    def dead(self) -> tuple[Bool[Tensor, " features"], Bool[Tensor, " others"]]:
        """For each side which units have the same value for every sample."""
        return _dead(self.x), _dead(self.y)

    def alive(self) -> tuple[PairedStatistics, Tensor, Tensor]:
        """The statistics of the units that vary, and the numbers of these units on each side.

        Raises:
            ValueError: a side has none.
        """
        kept_x, kept_y = (torch.nonzero(~dead).flatten() for dead in self.dead)
        if len(kept_x) == 0 or len(kept_y) == 0:
            raise ValueError("every unit of one side has the same value for all samples: nothing is left to compare")
        found = PairedStatistics()
        for mine, theirs, kept in ((found.x, self.x, kept_x), (found.y, self.y, kept_y)):
            mine.count, mine._mean, mine._squares = theirs.count, theirs._mean[kept], theirs._squares[kept][:, kept]
        cross, old = found.cross, self.cross
        cross.count, cross._mean_x, cross._mean_y = old.count, old._mean_x[kept_x], old._mean_y[kept_y]
        cross._products = old._products[kept_x][:, kept_y]
        return found, kept_x, kept_y

    @property
    def correlation(self) -> Float[Tensor, "features others"]:
        """Between the units of x and those of y.

        Raises:
            ValueError: a unit that is the same for every sample; `alive` leaves these out.
        """
        self._all_alive()
        return _scaled(self.cross.covariance, self.x.variance, self.y.variance)

    @property
    def joint_correlation(self) -> Float[Tensor, "both both"]:
        """Of all units of x and then all of y, with each other.

        Raises:
            ValueError: as `correlation`.
        """
        self._all_alive()
        cross = self.cross.covariance
        joint = torch.cat((torch.cat((self.x.covariance, cross), 1), torch.cat((cross.T, self.y.covariance), 1)))
        return _scaled(joint, joint.diagonal(), joint.diagonal())

    def _all_alive(self) -> None:
        if self.count < 2:
            raise ValueError(f"{self.count} sample(s): a correlation needs two at least")
        numbers = [int(dead.sum()) for dead in self.dead]
        if any(numbers):
            raise ValueError(
                f"{numbers[0]} and {numbers[1]} units have the same value for every sample, and no correlation; "
                "take stats.alive() to leave them out"
            )


def _dead(side: Covariance) -> Tensor:
    # a constant unit keeps a variance of rounding size once batches of it are merged
    spread = side.variance.clamp(min=0).sqrt()
    return spread <= 1e-12 * side.mean.abs() + torch.finfo(torch.float64).tiny ** 0.5


def _scaled(covariance: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return (covariance / first.sqrt()[:, None] / second.sqrt()).clamp(-1, 1)
