r"""How far one layer's features are an affine function of another's, from streamed second moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.analysis.geometry.paired import PairedStatistics

__all__ = ["AffineMap", "affine_fit", "linearity", "linearity_score", "residual_free"]


@dataclass(frozen=True)
class AffineMap:
    r"""\(x \mapsto x W + b\).

    Attributes:
        weight: (features, others).
        bias: (others,).
    """

    weight: Float[Tensor, "features others"]
    bias: Float[Tensor, " others"]

    def __call__(self, x: Float[Tensor, "*samples features"]) -> Float[Tensor, "*samples others"]:
        """Apply it, in the type of `x`."""
        return x @ self.weight.to(x) + self.bias.to(x)


def affine_fit(stats: PairedStatistics) -> AffineMap:
    r"""The affine map of least squares from x to y: \(W = S_{xx}^{+} S_{xy}\), \(b = \bar y - \bar x W\).

    Raises:
        ValueError: not more samples than features of x (then a map fits whatever y is), or x without variance.
    """
    count, features = stats.count, stats.cross._products.shape[0]
    if count <= features:
        raise ValueError(
            f"{count} samples of {features} features: a map through so few fits anything; give more samples than "
            "features, several times as many for a score that means something"
        )
    within = stats.x.covariance
    spread = within.diagonal().clamp(min=0).sqrt()
    floor = 1e-12 * stats.x.mean.abs() + torch.finfo(torch.float64).tiny ** 0.5
    alive = spread > floor
    if not bool(alive.any()):
        raise ValueError("every feature of x has the same value for all samples: there is nothing to predict from")
    # features in units of their own spread: outlier features decide no cut-off
    scale = torch.where(alive, 1 / torch.where(alive, spread, 1.0), 0.0)
    inverse = torch.linalg.pinv(within * scale[:, None] * scale, hermitian=True, rtol=1e-12)
    weight = scale[:, None] * (inverse @ (stats.cross.covariance * scale[:, None]))
    return AffineMap(weight, stats.y.mean - stats.x.mean @ weight)


def linearity_score(stats: PairedStatistics, fitted: AffineMap | None = None) -> float:
    r"""The share of y's variance that an affine function of x explains.

    \[ 1 - \min_{W, b} \frac{\sum_i \|y_i - x_i W - b\|^2}{\sum_i \|y_i - \bar y\|^2}, \]

    which for centred matrices of Frobenius norm one is \(1 - \min_W \|XW - Y\|_F^2\). Neither rotations nor shifts
    nor a common scale of either side change it. Independent x and y score about features / samples.

    Args:
        stats: means and covariances of both sides.
        fitted: score this map on `stats` (of other samples) instead of the best one; it may be below zero.

    Raises:
        ValueError: y has no variance; and what `affine_fit` raises where no map is given.

    Source: Razzhigaev et al., Your Transformer is Secretly Linear (2024), section 3.
    """
    total = float(stats.y.variance.sum())
    if not total > 1e-24 * float(stats.y.mean.square().sum()):
        raise ValueError("y has the same value for all samples: there is no variance to explain")
    own = fitted is None
    found = affine_fit(stats) if fitted is None else fitted
    weight = found.weight
    explained = 2 * (weight * stats.cross.covariance).sum() - (weight * (stats.x.covariance @ weight)).sum()
    shift = stats.y.mean - stats.x.mean @ weight - found.bias
    missed = 0.0 if own else float(shift.square().sum())
    score = (float(explained) - missed) / total
    return min(1.0, max(0.0, score)) if own else score


def residual_free(stats: PairedStatistics) -> PairedStatistics:
    """The statistics of x and y − x out of those of x and y: what a residual block adds, not what it passes on.

    Raises:
        ValueError: x and y of different widths.
    """
    x, cross = stats.x.covariance, stats.cross.covariance
    if cross.shape[0] != cross.shape[1]:
        raise ValueError(f"x and y have {cross.shape[0]} and {cross.shape[1]} features: y − x needs equal widths")
    found, count = PairedStatistics(), stats.count
    added = stats.y.mean - stats.x.mean
    found.x = stats.x
    found.y.count, found.y._mean = count, added
    found.y._squares = (stats.y.covariance - cross - cross.T + x) * count
    found.cross.count, found.cross._mean_x, found.cross._mean_y = count, stats.x.mean, added
    found.cross._products = (cross - x) * count
    return found


def linearity(
    x: Float[Tensor, "*samples features"],
    y: Float[Tensor, "*_ others"],
    *,
    residual: bool = True,
    held_out: tuple[Tensor, Tensor] | None = None,
    drop_first: int = 0,
) -> float:
    """The linearity score of two feature arrays of the same samples (`linearity_score` gives the formula).

    Args:
        x, y: (samples, features), or (batch, length, features).
        residual: False scores y − x instead of y.
        held_out: another such pair: the map is fitted on (x, y) and scored here.
        drop_first: of each sequence, the first positions to leave out: language models give them huge states that
            carry most of the variance. Needs (batch, length, features).

    Raises:
        ValueError: shapes that differ, not more samples than features, a side without variance, NaN, or
            `drop_first` that leaves nothing.

    >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    >>> round(linearity(x, x @ torch.ones(3, 2) + 5), 6)
    1.0
    """

    def gathered(first: Tensor, second: Tensor) -> PairedStatistics:
        if first.shape[:-1] != second.shape[:-1]:
            raise ValueError(
                f"x is {tuple(first.shape)} and y {tuple(second.shape)}: both show the same samples, in one order"
            )
        if drop_first:
            if first.ndim < 3 or not 0 < drop_first < first.shape[-2]:
                raise ValueError(
                    f"drop_first={drop_first} of arrays {tuple(first.shape)}: it takes positions from (batch, length, "
                    "features), and must leave some"
                )
            first, second = first[..., drop_first:, :], second[..., drop_first:, :]
        stats = PairedStatistics()
        stats.update(first.reshape(-1, first.shape[-1]), second.reshape(-1, second.shape[-1]))
        return stats if residual else residual_free(stats)

    stats = gathered(x, y)
    return linearity_score(stats) if held_out is None else linearity_score(gathered(*held_out), affine_fit(stats))
