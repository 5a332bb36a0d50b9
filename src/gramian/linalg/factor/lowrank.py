r"""Matrices of low rank: the best approximation, plain, weighted by rows and columns, and from random projections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Factors", "break_even_rank", "randomized_svd", "truncated_svd", "weighted_error", "weighted_svd"]


class Factors(NamedTuple):
    """Two factors of a matrix: `left` @ `right`."""

    left: Float[Tensor, "rows rank"]
    right: Float[Tensor, "rank columns"]

    def product(self) -> Float[Tensor, "rows columns"]:
        return self.left @ self.right


def break_even_rank(rows: int, columns: int) -> int:
    r"""The largest rank whose two factors hold fewer numbers than the matrix: \(r (m + n) < m n\).

    >>> break_even_rank(384, 384), break_even_rank(1536, 384)
    (191, 307)
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a matrix of shape ({rows}, {columns}) has no factors")
    return (rows * columns - 1) // (rows + columns)


def truncated_svd(matrix: Float[Tensor, "rows columns"], rank: int) -> Factors:
    r"""The best approximation of a rank: \(A \approx U_r \sqrt{S_r} \cdot \sqrt{S_r} V_r^T\), balanced factors.

    \(\|A - LR\|_F^2 = \sum_{i > r} \sigma_i^2\), which no other matrix of that rank undercuts (Eckart and Young, 1936).

    Raises:
        ValueError: a rank outside [1, min(rows, columns)], or NaN or infinity in the matrix.
    """
    work = _checked(matrix, rank)
    u, s, vh = torch.linalg.svd(work, full_matrices=False)
    return _balanced(u, s, vh, rank, matrix.dtype)


def weighted_svd(
    matrix: Float[Tensor, "rows columns"],
    row: Float[Tensor, " rows"] | None,
    column: Float[Tensor, " columns"] | None,
    rank: int,
    *,
    randomized: bool = False,
    generator: torch.Generator | None = None,
) -> Factors:
    r"""The factors of least weighted error \(\|D_r (A - LR) D_c\|_F\), \(D_r = \mathrm{diag}(row)\), \(D_c\) likewise.

    \(D_r A D_c = U S V^T\) gives \(L = D_r^{-1} U_r \sqrt{S_r}\) and \(R = \sqrt{S_r} V_r^T D_c^{-1}\). Exact where the
    weight of each entry is a product \(row_i \cdot column_j\); weights that differ entry by entry have no
    closed solution.

    Args:
        row, column: weights of rows and columns, above 0; None weighs all alike.
        randomized: True projects on random directions first (`randomized_svd`): much faster at low ranks.
        generator: for the random directions.

    Raises:
        ValueError: a rank outside [1, min(rows, columns)], NaN or infinity, or a weight that is not above 0: an entry
            of weight 0 is free, and its row of L is not determined (give weights a floor).

    Source: Hsu et al., Language model compression with weighted low-rank factorization (2022), section 4; rows and
    columns as in Guo et al., LQ-LoRA (2023), section 3.3.

    >>> a = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> weighted_svd(a, torch.tensor([1.0, 9.0]), None, 1).product().round().abs()
    tensor([[0., 0.],
            [0., 1.]])
    """
    work = _checked(matrix, rank)
    scaled = work
    if row is not None:
        row = _weights(row, matrix.shape[0], "row").to(work)
        scaled = scaled * row[:, None]
    if column is not None:
        column = _weights(column, matrix.shape[1], "column").to(work)
        scaled = scaled * column
    if randomized:
        u, s, vh = randomized_svd(scaled, rank, generator=generator)
    else:
        u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
    left, right = _balanced(u, s, vh, rank, work.dtype)
    if row is not None:
        left = left / row[:, None]
    if column is not None:
        right = right / column
    return Factors(left.to(matrix.dtype), right.to(matrix.dtype))


def weighted_error(
    matrix: Float[Tensor, "rows columns"],
    approximation: Float[Tensor, "rows columns"],
    row: Float[Tensor, " rows"] | None = None,
    column: Float[Tensor, " columns"] | None = None,
) -> Float[Tensor, ""]:
    r"""What `weighted_svd` minimizes: \(\|D_r (A - B) D_c\|_F\)."""
    difference = matrix - approximation
    if row is not None:
        difference = difference * row[:, None]
    if column is not None:
        difference = difference * column
    return torch.linalg.matrix_norm(difference)


def randomized_svd(
    matrix: Float[Tensor, "rows columns"],
    rank: int,
    *,
    oversample: int = 10,
    power_iterations: int = 4,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "rows rank"], Float[Tensor, " rank"], Float[Tensor, "rank columns"]]:
    r"""The leading singular triplets from the range of \((A A^T)^q A \Omega\), \(\Omega\) of rank + oversample columns.

    Args:
        oversample: random directions beyond the rank.
        power_iterations: q; each sharpens the decay of the spectrum, with a QR step between products.
        generator: for Ω; without one a fixed seed.

    Raises:
        ValueError: a rank outside [1, min(rows, columns)], NaN or infinity, a negative oversample or number of
            iterations.

    Source: Halko, Martinsson and Tropp, Finding structure with randomness (2011), algorithms 4.4 and 5.1.
    """
    work = _checked(matrix, rank)
    if oversample < 0 or power_iterations < 0:
        raise ValueError(f"oversample={oversample} and power_iterations={power_iterations} must not be negative")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    width = min(rank + oversample, *matrix.shape)
    omega = torch.randn(matrix.shape[1], width, generator=generator, device=generator.device, dtype=work.dtype)
    basis = torch.linalg.qr(work @ omega.to(work.device)).Q
    for _ in range(power_iterations):
        basis = torch.linalg.qr(work @ torch.linalg.qr(work.mT @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.mT @ work, full_matrices=False)
    return (basis @ u[:, :rank]).to(matrix.dtype), s[:rank].to(matrix.dtype), vh[:rank].to(matrix.dtype)


def _balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int, dtype: torch.dtype) -> Factors:
    root = s[:rank].sqrt()
    return Factors((u[:, :rank] * root).to(dtype), (root[:, None] * vh[:rank]).to(dtype))


def _checked(matrix: Tensor, rank: int) -> Tensor:
    if matrix.ndim != 2 or not matrix.is_floating_point():
        raise ValueError(f"a real matrix is needed, got shape {tuple(matrix.shape)} of {matrix.dtype}")
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank={rank} is not between 1 and {min(matrix.shape)}, the least side of the matrix")
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the matrix holds NaN or infinity")
    return matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()


def _weights(weights: Tensor, count: int, what: str) -> Tensor:
    if weights.shape != (count,):
        raise ValueError(f"{what} weights have shape {tuple(weights.shape)}, the matrix needs ({count},)")
    if not bool(torch.isfinite(weights).all()) or not bool((weights > 0).all()):
        raise ValueError(
            f"{what} weights must be finite and above 0, got a least of {float(weights.min()):g}: "
            "give them a floor, such as weights.clamp(min=1e-4 * weights.max())"
        )
    return weights
