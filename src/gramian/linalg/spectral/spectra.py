r"""Norms and entropies of a matrix's singular values.

All functions take a feature matrix \(X\) of shape (samples, features), whose rows are samples (tokens, images),
and accumulate in float32 at least.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def _checked(x: Tensor, least_rows: int = 1) -> Tensor:
    if x.ndim != 2:
        raise ValueError(f"a feature matrix has shape (samples, features), got {tuple(x.shape)}")
    if x.shape[0] < least_rows or x.shape[1] < 1:
        raise ValueError(f"needs at least {least_rows} rows and one column, got {tuple(x.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError("the matrix holds NaN or infinity; drop or replace those rows first")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def center_and_normalize(x: Float[Tensor, "samples features"]) -> Float[Tensor, "samples features"]:
    """Subtract the mean row, then scale each row to length one.

    Raises:
        ValueError: fewer than two rows, or a row that equals the mean row (it has no direction): rows that
            are all equal, such as the states of one token repeated, leave nothing.
    """
    x = _checked(x, least_rows=2)
    centred = x - x.mean(dim=0)
    lengths = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    floor = torch.finfo(x.dtype).eps * x.abs().max() * x.shape[1] ** 0.5
    if bool((lengths <= floor).any()):
        rows = torch.nonzero(lengths.flatten() <= floor).flatten().tolist()
        raise ValueError(
            f"{len(rows)} of {len(x)} rows equal the mean row (the first is row {rows[0]}) and have no direction; "
            "a text whose tokens are all the same cannot be scored"
        )
    return centred / lengths


def nuclear_norm(
    x: Float[Tensor, "samples features"], method: Literal["svd", "l12"] = "svd", top: int | None = None
) -> Float[Tensor, ""]:
    r"""The nuclear norm \(\|X\|_* = \sum_i \sigma_i\), exactly or by column norms.

    ``"l12"`` sums the `top` largest column norms, \(\sum_{j \le D} \|x_{(j)}\|_2\), by default with
    \(D = \min(\text{samples}, \text{features})\), in \(O(\text{samples} \cdot \text{features})\) and without a singular
    value decomposition. What is known of it:

    - the sum over *all* columns is an upper bound of the nuclear norm (\(X = \sum_j x_j e_j^T\) and the triangle
      inequality), with equality exactly when the columns are orthogonal;
    - it is not invariant to rotations of the features: a matrix of rank one along the direction
      \((1, …, 1)\) gives \(\sqrt{\text{features}}\) times its nuclear norm;
    - with fewer samples than features the default cut leaves columns out, and the bound need not hold.

    Raises:
        ValueError: NaN or infinity, a matrix without rows, `top` outside [1, features], or `top` with ``"svd"``.

    Source: Li et al., Large Language Model Evaluation via Matrix Nuclear-Norm (2024), section 3.

        >>> x = torch.eye(3)[:, :2] * 5
        >>> float(nuclear_norm(x)), float(nuclear_norm(x, "l12"))
        (10.0, 10.0)
    """
    x = _checked(x)
    if method == "svd":
        if top is not None:
            raise ValueError("top= belongs to method='l12'; the exact norm takes all singular values")
        return _singular_values(x).sum()
    if method != "l12":
        raise ValueError(f"method={method!r} is not 'svd' or 'l12'")
    count = min(x.shape) if top is None else top
    if not 1 <= count <= x.shape[1]:
        raise ValueError(f"top={count} is not between 1 and the number of columns, {x.shape[1]}")
    norms = torch.linalg.vector_norm(x, dim=0)
    return norms.sum() if count == len(norms) else norms.topk(count).values.sum()


def _singular_values(x: Tensor) -> Tensor:
    """The singular values; the tall orientation is the quicker one."""
    return torch.linalg.svdvals(x if x.shape[0] >= x.shape[1] else x.mT)


def _entropy(weights: Tensor) -> Tensor:
    p = weights / weights.sum()
    return -torch.special.xlogy(p, p).sum()


def matrix_entropy(x: Float[Tensor, "samples features"]) -> Float[Tensor, ""]:
    r"""The normalized entropy of the covariance spectrum: \(-\sum_i p_i \log p_i / \log d\).

    With \(p = \lambda / \sum_j \lambda_j\), \(\lambda\) the eigenvalues of \(X^T X\) and \(d\) the number of features.
    It is 1 for orthonormal columns, 0 for rank one, and needs a decomposition: \(O(n d \min(n, d))\), here of the
    smaller Gram matrix, in float64.

    Raises:
        ValueError: NaN or infinity, a single column, or a matrix of zeros.
    """
    x = _checked(x)
    if x.shape[1] < 2:
        raise ValueError("the entropy of one column is not defined: it is normalized by log(features)")
    tall = x.double() if x.shape[0] >= x.shape[1] else x.double().mT
    squares = torch.linalg.eigvalsh(tall.mT @ tall).clamp(min=0)  # rounding puts zeros a little below zero
    if not bool(squares.sum() > 0):
        raise ValueError("the matrix is zero: its spectrum has no distribution")
    return (_entropy(squares) / math.log(x.shape[1])).to(x.dtype)


def effective_rank(x: Float[Tensor, "samples features"]) -> Float[Tensor, ""]:
    r"""The exponential of the singular values' entropy: \(\exp(-\sum_i p_i \log p_i)\), \(p = \sigma / \sum \sigma\).

    Between 1 (rank one) and the rank (equal singular values).

    Raises:
        ValueError: NaN or infinity, or a matrix of zeros.

    Source: Roy and Vetterli, The effective rank (2007), definition 1.
    """
    values = _singular_values(_checked(x))
    if not bool(values.sum() > 0):
        raise ValueError("the matrix is zero: its effective rank is not defined")
    return torch.exp(_entropy(values))
