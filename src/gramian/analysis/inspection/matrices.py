"""The weight matrices of a network, each described by its spectrum."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.lab import progress_bar
from gramian.linalg.spectral.tail import power_law_tail, random_edge


@dataclass(frozen=True)
class Matrix:
    r"""One weight matrix \(W\) of m rows (outputs) and n columns (inputs), and its singular values \(\sigma\).

    Attributes:
        name: the parameter's dotted name.
        depth: the first number in the name (which block it belongs to); None where there is none.
        kind: the name without that number and without ``.weight``: what it is within its block.
        rows, columns: a convolution is seen as outputs × (inputs · kernel).
        singular_values: all of them, descending, float64.
        norm: the Frobenius norm \(\|W\|_F\).
        stable_rank: \(\|W\|_F^2 / \sigma_1^2\).
        effective_rank: the exponential of the entropy of \(\sigma / \sum \sigma\).
        tail_exponent: \(\alpha\) of a power law fitted to the tail of \(\sigma^2\); NaN under twenty values.
        spikes: singular values above what independent entries of the same variance would reach.
        kurtosis: of the entries, 3 for a normal distribution: how much a few large entries dominate.
        largest: the largest entry over the root mean square of all.
        rank_at: for each relative error, the smallest rank that approximates W in the Frobenius norm so well.
    """

    name: str
    depth: int | None
    kind: str
    rows: int
    columns: int
    singular_values: Float[Tensor, " values"]
    norm: float
    stable_rank: float
    effective_rank: float
    tail_exponent: float
    spikes: int
    kurtosis: float
    largest: float
    rank_at: dict[float, int]

    @property
    def full_rank(self) -> int:
        return min(self.rows, self.columns)

    @property
    def break_even(self) -> int:
        """The largest rank at which two factors hold fewer numbers than the matrix: r (m + n) < m n."""
        return max(0, (self.rows * self.columns - 1) // (self.rows + self.columns))


def split_name(name: str) -> tuple[int | None, str]:
    """The block number in a parameter's name, and the name without it.

    >>> split_name("model.layers.7.mlp.up_proj.weight")
    (7, 'mlp.up_proj')
    >>> split_name("lm_head.weight")
    (None, 'lm_head')
    """
    plain = re.sub(r"\.?weight$", "", name) or name
    found = re.search(r"(?:^|\.)(\d+)\.(.+)$", plain)
    if found is None:
        found = re.search(r"(?:^|\.)(\d+)()$", plain)
        return (int(found[1]), "block") if found else (None, plain)
    return int(found[1]), found[2]


def weight_matrices(model: nn.Module) -> Iterator[tuple[str, Float[Tensor, "rows columns"]]]:
    """Every weight of two axes or more, as outputs × the rest; one that several modules share comes once."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and parameter.is_floating_point() and min(parameter.shape) >= 1:
            matrix = parameter.detach().flatten(1)
            if min(matrix.shape) > 1:
                yield name, matrix


def inspect_matrices(
    model: nn.Module, *, errors: tuple[float, ...] = (0.01, 0.05), show_progress: bool | None = None
) -> list[Matrix]:
    r"""Describe every weight matrix by its spectrum.

    The singular values are the roots of the eigenvalues of the smaller Gram matrix, in float64: exact to
    about \(10^{-8} \sigma_1\), at a fraction of a decomposition's time.

    Args:
        errors: the relative Frobenius errors for which the sufficient rank is told.

    Raises:
        ValueError: no weight matrix, parameters without values (the meta device), or NaN in a matrix.
    """
    found = list(weight_matrices(model))
    if not found:
        raise ValueError(f"a {type(model).__name__} has no weight matrix to look at")
    if any(w.is_meta for _, w in found):
        raise ValueError("the parameters are on the meta device and have no values: load the weights first")
    return [_describe(name, w, errors) for name, w in progress_bar(found, "spectra", show=show_progress)]


def _describe(name: str, weight: Tensor, errors: tuple[float, ...]) -> Matrix:
    w = weight.double()
    if not bool(torch.isfinite(w).all()):
        raise ValueError(f"{name} holds NaN or infinity")
    rows, columns = w.shape
    gram = w @ w.mT if rows <= columns else w.mT @ w
    squares = torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)
    sigma = squares.sqrt()
    total = float(squares.sum())
    depth, kind = split_name(name)
    mean_square = total / w.numel()
    variance = float(w.var(correction=0))
    if total == 0:
        return Matrix(name, depth, kind, rows, columns, sigma, 0.0, 0.0, 0.0, math.nan, 0, math.nan, 0.0,
                      dict.fromkeys(errors, 0))  # fmt: skip
    share = sigma / sigma.sum()
    left = (total - squares.cumsum(0)).clamp(min=0)  # what rank 1, 2, … leave, squared
    ranks = {e: 1 + int((left > e**2 * total).sum()) for e in errors}
    centred = w - w.mean()
    return Matrix(
        name, depth, kind, rows, columns, sigma,
        norm=math.sqrt(total),
        stable_rank=total / float(squares[0]),
        effective_rank=float(torch.exp(-torch.special.xlogy(share, share).sum())),
        tail_exponent=_exponent(squares),
        spikes=int((sigma > random_edge(rows, columns, mean_square)).sum()),
        kurtosis=float(centred.pow(4).mean()) / variance**2 if variance > 0 else math.nan,
        largest=float(w.abs().max()) / math.sqrt(mean_square),
        rank_at={e: min(r, len(sigma)) for e, r in ranks.items()},
    )  # fmt: skip


def _exponent(squares: Tensor) -> float:
    positive = squares[squares > 1e-14 * squares[0]]
    if len(positive) < 20 or positive[0] == positive[-1]:
        return math.nan
    if len(positive) > 2000:  # the fit's memory grows with the square: keep every k-th of the descending values
        positive = positive[:: -(-len(positive) // 2000)]
    return power_law_tail(positive).exponent
