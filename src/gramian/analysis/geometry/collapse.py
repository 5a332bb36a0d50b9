"""Neural collapse: how far features are from falling on class means that form a regular simplex."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.analysis.geometry.statistics import ClassStatistics

__all__ = ["Frame", "angle_deviation", "cdnv", "cosines", "nc1", "nc2", "nc3", "nc4", "nearest_mean"]


class Frame(NamedTuple):
    """How far vectors are from a simplex with equal angles and lengths; both zero for one.

    Attributes:
        norms: standard deviation of the lengths over their mean.
        angles: mean distance of the pairwise cosines from −1/(K − 1).
    """

    norms: Float[Tensor, ""]
    angles: Float[Tensor, ""]


def nc1(stats: ClassStatistics, ratio: Literal["pinv", "trace"] = "pinv") -> Float[Tensor, ""]:
    r"""Within-class variability against that between classes (NC1); zero when every class is one point.

    \[ \tfrac1K \operatorname{tr}(\Sigma_W \Sigma_B^{+}) \quad\text{or}\quad
       \operatorname{tr}(\Sigma_W) / \operatorname{tr}(\Sigma_B). \]

    Both are the same after a rotation, a shift or a change of scale of the features.

    Args:
        ratio: with the pseudo-inverse (Papyan, Han & Donoho, 2020), or of the traces, which needs no inverse.

    Raises:
        ValueError: fewer than two classes, a class of one row, or class means that coincide.
    """
    if ratio not in ("pinv", "trace"):
        raise ValueError(f"ratio={ratio!r} is neither 'pinv' nor 'trace'")
    _several(stats)
    stats.seen(2)
    within, centred = stats.within, stats.centred_means
    size = centred.square().sum()
    if not bool(size > _TINY * stats.means.square().sum()):
        raise ValueError("all class means coincide: nothing lies between the classes to compare with")
    if ratio == "trace":
        return within.trace() / (size / stats.classes)
    # Σ_B = MᵀM/K, so Σ_B⁺ = K M⁺ M⁺ᵀ: the means are inverted, not their square, and the K cancels
    inverse = torch.linalg.pinv(centred, rtol=1e-10)
    return ((within @ inverse) * inverse).sum()


def nc2(stats: ClassStatistics) -> Frame:
    """How far the centred class means are from a regular simplex (NC2).

    Raises:
        ValueError: fewer than two classes, or a class mean at the centre.
    """
    _several(stats)
    centred = stats.centred_means
    norms = centred.norm(dim=1)
    return Frame(norms.std(correction=0) / norms.mean(), angle_deviation(centred))


def nc3(stats: ClassStatistics, weight: Float[Tensor, "classes features"]) -> Float[Tensor, ""]:
    r"""How far a linear classifier is from its class means (NC3, self-duality): \(\|W/\|W\| - M/\|M\|\|_F\).

    M are the centred class means; both are normalized as a whole. At most 2.

    Raises:
        ValueError: a weight of another shape, or one that is zero.
    """
    _several(stats)
    means = stats.centred_means
    if weight.shape != means.shape:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not match class means {tuple(means.shape)}")
    weight = weight.double()
    sizes = weight.norm(), means.norm()
    if not all(bool(s > 0) for s in sizes):
        raise ValueError("the weight or the centred means are zero: they have no direction")
    return (weight / sizes[0] - means / sizes[1]).norm()


def nc4(
    stats: ClassStatistics, features: Float[Tensor, "samples features"], predictions: Int[Tensor, " samples"]
) -> float:
    """The share of rows where a classifier's prediction is not the nearest class mean (NC4)."""
    stats.seen()
    return float((nearest_mean(stats.means, features) != predictions).double().mean())


def cdnv(stats: ClassStatistics, reduce: Literal["mean", "pairs"] = "mean") -> Float[Tensor, "..."]:
    r"""Class-distance normalized variance: how wide two classes are for how far they lie apart.

    \[ V_{ij} = \frac{\mathrm{Var}_i + \mathrm{Var}_j}{2\,\|\mu_i - \mu_j\|^2}, \qquad
       \mathrm{Var}_i = \mathbb E\,\|h - \mu_i\|^2 . \]

    By Chebyshev's inequality the nearer of two class means is the wrong one with probability at most \(4V_{ij}\)
    (the mean over both classes).

    Args:
        reduce: the mean over all pairs i ≠ j, or the matrix of them, with a zero diagonal.

    Raises:
        ValueError: fewer than two classes, a class of one row, or two class means that coincide.

    Source: Galanti, György & Hutter (2021), section 3.

    >>> from gramian.analysis.geometry.statistics import class_statistics
    >>> h = torch.tensor([[0.0, 1.0], [0.0, -1.0], [10.0, 1.0], [10.0, -1.0]])
    >>> float(cdnv(class_statistics(h, torch.tensor([0, 0, 1, 1]))))
    0.01
    """
    if reduce not in ("mean", "pairs"):
        raise ValueError(f"reduce={reduce!r} is neither 'mean' nor 'pairs'")
    _several(stats)
    variances = stats.variances
    apart = _squared_distances(stats.means, stats.means)
    one = torch.eye(stats.classes, dtype=torch.bool, device=apart.device)
    limit = _TINY * stats.means.square().sum(1).max()
    near = (apart <= limit) & ~one
    if bool(near.any()):
        i, j = (int(k) for k in near.nonzero()[0])
        raise ValueError(f"the means of classes {i} and {j} coincide: their distance cannot normalize a variance")
    pairs = (variances[:, None] + variances) / (2 * apart.masked_fill(one, 1.0))
    pairs = pairs.masked_fill(one, 0.0)
    if reduce == "pairs":
        return pairs
    return pairs.sum() / (stats.classes * (stats.classes - 1))


def cosines(vectors: Float[Tensor, "count dim"]) -> Float[Tensor, " pairs"]:
    """The cosines of all pairs of rows, each pair once.

    Raises:
        ValueError: fewer than two rows, or a row of length zero.
    """
    if len(vectors) < 2:
        raise ValueError("one vector has no angle to another: give at least two rows")
    norms = vectors.norm(dim=1)
    if not bool((norms > 0).all()):
        raise ValueError(f"row {int(norms.argmin())} has length zero: it has no direction. Leave it out")
    unit = vectors / norms[:, None]
    upper = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    return (unit @ unit.mT)[upper[0], upper[1]]


def angle_deviation(vectors: Float[Tensor, "count dim"], cosine: float | None = None) -> Float[Tensor, ""]:
    """Mean distance of the pairwise cosines from one value: by default −1/(K − 1), the simplex's; 0 for orthogonal.

    >>> round(float(angle_deviation(torch.eye(3), cosine=0.0)), 6)
    0.0
    """
    found = cosines(vectors)
    return (found - (-1 / (len(vectors) - 1) if cosine is None else cosine)).abs().mean()


def nearest_mean(
    means: Float[Tensor, "*batch classes features"], features: Float[Tensor, "*batch samples features"]
) -> Int[Tensor, "*batch samples"]:
    """The class whose mean is nearest to each row."""
    return _squared_distances(features.to(means.dtype), means).argmin(-1)


_TINY = 1e-24  # of squared lengths in float64


def _several(stats: ClassStatistics) -> None:
    if stats.classes < 2:
        raise ValueError("collapse compares classes: at least two are needed")
    stats.seen()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    # differences, not |x|² + |y|² − 2xy: points that nearly coincide keep their distance
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
