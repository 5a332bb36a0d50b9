"""Neural regression collapse: features that fall on the few directions in which the targets vary."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.analysis.geometry.dimension import intrinsic_dimension

__all__ = ["Regime", "nrc1", "nrc2", "nrc3", "regression_regime"]


class Regime(NamedTuple):
    """Where a regression network stands.

    Attributes:
        features, targets: intrinsic dimensions of the last layer's features and of the targets.
        name: ``"over-compressed"`` where the features have fewer dimensions than the targets, else
            ``"under-compressed"``.
        nrc1: of the features, for as many directions as the targets have columns.
    """

    features: float
    targets: float
    name: str
    nrc1: float


def nrc1(features: Float[Tensor, "samples features"], targets: int) -> Float[Tensor, ""]:
    r"""How far the features are from the span of their first principal directions; 0 when they lie in it, at most 1.

    \[ \mathrm{NRC1} = \frac1N \sum_i \| \tilde h_i - P \tilde h_i \|^2, \qquad
       \tilde h_i = \frac{h_i - \bar h}{\|h_i - \bar h\|}, \]

    P the projection on the top `targets` principal directions of the \(\tilde h_i\). It does not change when the
    features are shifted, scaled or rotated.

    Args:
        targets: n, the number of target columns.

    Raises:
        ValueError: n outside 1 … features − 1, fewer rows than n + 1, NaN, or a row at the mean.

    Source: Andriopoulos et al. (2024), NRC1, as used by "Geometric Properties of Neural Multivariate Regression".
    """
    unit = _unit_rows(features, targets)
    values = torch.linalg.svdvals(unit).square()
    return values[targets:].sum() / len(features)


def nrc2(features: Float[Tensor, "samples features"], weight: Float[Tensor, "targets width"]) -> Float[Tensor, ""]:
    r"""How far the features are from the row space of the last layer, as `nrc1` but with P the projection on it.

    Raises:
        ValueError: what `nrc1` raises, a weight of another width, or one that is zero.
    """
    unit = _unit_rows(features, len(weight))
    if weight.shape[1] != features.shape[1]:
        raise ValueError(f"the weight reads {weight.shape[1]} features, there are {features.shape[1]}")
    # strong decay leaves fewer directions than rows: the projection is on those that are there
    _, values, directions = torch.linalg.svd(weight.to(unit.dtype), full_matrices=False)
    if not bool(values[0] > 0):
        raise ValueError("the weight is zero: its rows span nothing")
    kept = values > values[0] * max(weight.shape) * torch.finfo(unit.dtype).eps
    basis = directions[kept].mT
    return (unit - unit @ basis @ basis.mT).square().sum() / len(unit)


def nrc3(weight: Float[Tensor, "targets features"], targets: Float[Tensor, "samples targets"]) -> Float[Tensor, ""]:
    r"""How far the last layer's Gram matrix is from the covariance of the targets, by the best offset.

    \[ \min_\gamma \left\| \frac{WW^\top}{\|WW^\top\|_F} -
       \frac{\Sigma^{1/2} - \gamma I}{\|\Sigma^{1/2} - \gamma I\|_F} \right\|_F^2,\qquad
       0 \le \gamma < \lambda_{\min}(\Sigma^{1/2}). \]

    The offset is found on a grid of 256 values.

    Raises:
        ValueError: one target column, different widths, a weight of zero, or targets whose covariance is singular.
    """
    count = len(weight)
    if count < 2 or targets.shape[1] != count:
        raise ValueError(f"a weight of {count} rows and targets of {targets.shape[1]} columns: both need n ≥ 2, alike")
    kind = torch.promote_types(weight.dtype, torch.float32)
    gram = weight.to(kind) @ weight.to(kind).mT
    if not bool(gram.norm() > 0):
        raise ValueError("the weight is zero: its Gram matrix has no direction")
    values, vectors = torch.linalg.eigh(torch.cov(targets.to(kind).mT))
    if not bool(values[0] > 1e-10 * values[-1]):
        raise ValueError("the covariance of the targets is singular: a column is constant or follows from the others")
    roots = values.sqrt()
    offsets = torch.linspace(0, 0.999, 256, dtype=kind, device=gram.device) * roots[0]
    shifted = roots - offsets[:, None]
    # both have norm 1: the squared distance is two minus twice the inner product
    inner = (shifted / shifted.norm(dim=1, keepdim=True)) @ (vectors.mT @ (gram / gram.norm()) @ vectors).diagonal()
    return (2 - 2 * inner.max()).clamp(min=0)


def regression_regime(
    features: Float[Tensor, "samples features"], targets: Float[Tensor, "_ targets"], trim: float = 0.1
) -> Regime:
    """Whether the features have fewer intrinsic dimensions (TwoNN) than the targets, or more.

    Raises:
        ValueError: different numbers of rows, constant targets, or what `intrinsic_dimension` and `nrc1` raise.
    """
    if len(features) != len(targets):
        raise ValueError(f"{len(features)} rows of features and {len(targets)} of targets")
    if not bool((targets != targets[:1]).any()):
        raise ValueError("the targets are constant: they have no dimension to compare with")
    inside, outside = (intrinsic_dimension(v, trim=trim) for v in (features, targets))
    name = "over-compressed" if inside < outside else "under-compressed"
    return Regime(inside, outside, name, float(nrc1(features, targets.shape[1])))


def _unit_rows(features: Tensor, targets: int) -> Tensor:
    count, dim = features.shape
    if not 1 <= targets < dim:
        raise ValueError(f"{targets} target(s) and {dim} features: collapse needs 1 ≤ targets < features")
    if count <= targets:
        raise ValueError(f"{count} rows always lie in {targets} directions: give more rows than targets")
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the features hold NaN or infinite numbers")
    x = x - x.mean(0)
    norms = x.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise ValueError(f"row {int(norms[:, 0].argmin())} is the mean of all: it has no direction. Leave it out")
    return x / norms
