"""What the two factors of a low-rank adapter are worth: the loss of freezing one of them, and a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Generalization",
    "best_A",
    "best_B",
    "excess_freeze_A",
    "excess_freeze_B",
    "expected_freeze_A_isotropic",
    "expected_freeze_B",
    "generalization_bound",
    "subspace_similarity",
]


def excess_freeze_A(
    change: Float[Tensor, "out in"], covariance: Float[Tensor, "width width"], frozen: Float[Tensor, "rank span"]
) -> Float[Tensor, ""]:
    r"""The least excess risk of B Q with A = Q frozen, where the wanted change of the weight is D.

    .. math:: \min_B \mathrm{Tr}[(D - BQ)\,\Sigma\,(D - BQ)^\top]
              = \mathrm{Tr}[D\Sigma D^\top] - \mathrm{Tr}[Q\Sigma D^\top D\Sigma Q^\top (Q\Sigma Q^\top)^{-1}]

    for the regression \(y = (W_0 + D)\,x + \text{noise}\) with \(\mathrm{Cov}\,x = \Sigma\).

    Args:
        change: D.
        covariance: Σ, symmetric and positive semi-definite.
        frozen: Q, of any rank r ≤ in; its rows need not be orthonormal.

    Raises:
        ValueError: shapes that do not fit, a rank above the width, or a singular Q Σ Qᵀ.

    Source: Zhu et al., "Asymmetry in Low-Rank Adapters of Foundation Models" (2024), its linear regression.
    """
    covariance = _checked(change, covariance, frozen, 1)
    inner, cross = frozen @ covariance @ frozen.T, change @ covariance @ frozen.T
    explained = torch.linalg.solve(_regular(inner), cross.T @ cross)
    return torch.trace(change @ covariance @ change.T) - torch.trace(explained)


def best_B(
    change: Float[Tensor, "out in"], covariance: Float[Tensor, "width width"], frozen: Float[Tensor, "rank span"]
) -> Float[Tensor, "out rank"]:
    r"""The B that attains `excess_freeze_A`: \(D \Sigma Q^\top (Q \Sigma Q^\top)^{-1}\).

    Raises:
        ValueError: as `excess_freeze_A`.
    """
    covariance = _checked(change, covariance, frozen, 1)
    inner, cross = frozen @ covariance @ frozen.T, change @ covariance @ frozen.T
    return torch.linalg.solve(_regular(inner), cross.T).T


def excess_freeze_B(
    change: Float[Tensor, "out in"], covariance: Float[Tensor, "width width"], frozen: Float[Tensor, "span rank"]
) -> Float[Tensor, ""]:
    r"""The least excess risk of U A with B = U frozen: \(\mathrm{Tr}[D\Sigma D^\top] - \mathrm{Tr}[P D\Sigma D^\top]\).

    P is the orthogonal projection onto the columns of U; what the inputs look like does not change the best A.

    Args:
        change, covariance: as `excess_freeze_A`.
        frozen: U, of full column rank.

    Raises:
        ValueError: shapes that do not fit, a rank above the height, or columns that are linearly dependent.
    """
    covariance = _checked(change, covariance, frozen.T, 0)
    inner = frozen.T @ frozen
    wanted = change @ covariance @ change.T
    return torch.trace(wanted) - torch.trace(torch.linalg.solve(_regular(inner), frozen.T @ wanted @ frozen))


def best_A(change: Float[Tensor, "out in"], frozen: Float[Tensor, "span rank"]) -> Float[Tensor, "rank in"]:
    r"""The A that attains `excess_freeze_B`: \((U^\top U)^{-1} U^\top D\), whatever the inputs.

    Raises:
        ValueError: as `excess_freeze_B`.
    """
    _checked(change, torch.eye(change.shape[1]).to(change), frozen.T, 0)
    return torch.linalg.solve(_regular(frozen.T @ frozen), frozen.T @ change)


def expected_freeze_B(
    change: Float[Tensor, "out in"], covariance: Float[Tensor, "width width"], rank: int
) -> Float[Tensor, ""]:
    r"""The mean of `excess_freeze_B` over uniformly random U: \((1 - r/d_{out})\,\mathrm{Tr}[D\Sigma D^\top]\)."""
    return (1 - rank / change.shape[0]) * torch.trace(change @ covariance @ change.T)


def expected_freeze_A_isotropic(change: Float[Tensor, "out in"], rank: int) -> Float[Tensor, ""]:
    r"""The mean of `excess_freeze_A` over uniformly random Q for Σ = I: \((1 - r/d_{in})\,\mathrm{Tr}[DD^\top]\)."""
    return (1 - rank / change.shape[1]) * change.square().sum()


def _checked(change: Tensor, covariance: Tensor, rows: Tensor, axis: int) -> Tensor:
    """The covariance, after a look at shapes and ranks; `rows` are the frozen factor's directions along `axis`."""
    width = change.shape[axis]
    if covariance.shape != (change.shape[1],) * 2:
        raise ValueError(f"a change of shape {tuple(change.shape)} needs a covariance of its width, "
                         f"got {tuple(covariance.shape)}")  # fmt: skip
    if rows.shape[1] != width:
        raise ValueError(f"the frozen factor has width {rows.shape[1]}, the change {width} there")
    if rows.shape[0] > width:
        raise ValueError(f"rank {rows.shape[0]} is above {width}, the side that the frozen factor spans")
    return covariance


def _regular(matrix: Tensor) -> Tensor:
    """The matrix, unless it is singular to working precision."""
    values = torch.linalg.eigvalsh(matrix)
    if not bool(values[0] > matrix.shape[0] * torch.finfo(matrix.dtype).eps * values[-1]):
        raise ValueError(
            "the frozen factor sees nothing along some direction: Q Σ Qᵀ (or Uᵀ U) is singular; "
            "draw another factor or lower the rank"
        )
    return matrix


class Generalization(NamedTuple):
    """Bounds on the gap between training and test risk: of A and B trained, of B alone, of A alone."""

    both: float
    only_B: float
    only_A: float


def generalization_bound(
    shapes: Sequence[tuple[int, int]],
    rank: int,
    samples: int,
    bits: int = 16,
    sigma: float | int = 1.0,
) -> Generalization:
    r"""\(\sqrt{\frac{2\sigma^2 \ln 2}{n}\, q \sum_l p_l}\) for p trained numbers of q bits in each layer.

    p is r (in + out) for both factors, r · out for B alone, r · in for A alone: information that training
    can store in its parameters bounds what it can memorize.

    Args:
        shapes: (out, in) of every adapted weight.
        rank: r.
        samples: n.
        bits: q, of each number.
        sigma: the loss's sub-Gaussian constant.

    Raises:
        ValueError: no shapes, or a rank, samples, bits or sigma that is not positive.

    Source: Zhu et al. (2024), its information-theoretic bound on generalization.
    """
    if not shapes:
        raise ValueError("shapes= is empty: give (out, in) of every adapted weight")
    for name, value in (("rank", rank), ("samples", samples), ("bits", bits), ("sigma", sigma)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be positive")
    scale = 2 * sigma**2 * math.log(2) / samples * bits * rank
    heights, widths = sum(o for o, _ in shapes), sum(i for _, i in shapes)
    return Generalization(*(math.sqrt(scale * size) for size in (heights + widths, heights, widths)))


def subspace_similarity(first: Float[Tensor, "rank width"], second: Float[Tensor, "other span"]) -> Float[Tensor, ""]:
    r"""How alike the row spaces of two factors are: the mean of the squared canonical correlations, 0 … 1.

    Two random r-dimensional spaces of a width d have r/d on average.

    Raises:
        ValueError: widths differ, or a factor whose rows are linearly dependent.
    """
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"widths differ: {first.shape[1]} and {second.shape[1]}")
    for factor in (first, second):
        _regular(factor @ factor.T)
    a, b = torch.linalg.qr(first.T).Q, torch.linalg.qr(second.T).Q
    return (a.T @ b).square().sum() / min(len(first), len(second))
