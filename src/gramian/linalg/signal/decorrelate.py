"""The orthogonal basis in which the steps of a series' windows are uncorrelated."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["decorrelating_basis", "step_correlation"]


def step_correlation(series: Float[Tensor, "length channels"], size: int) -> Float[Tensor, "{size} {size}"]:
    """Pearson correlation between the steps of all windows of `size` rows, averaged over the channels.

    Args:
        series: the training part only, or what is learned from it leaks.
        size: steps of a window.

    Returns:
        float64, symmetric, with unit diagonal.

    Raises:
        ValueError: NaN; fewer windows than steps; a channel that is constant in some step of all windows.

    Source: OLinear (arXiv 2505.08550), section 3.
    """
    if size < 1 or len(series) < 2 * size - 1:
        raise ValueError(f"{len(series)} rows hold too few windows of size={size}; give at least {2 * size - 1} rows")
    if not bool(torch.isfinite(series).all()):
        raise ValueError("the series has NaN or infinity; fill the gaps first")
    total = torch.zeros(size, size, dtype=torch.float64, device=series.device)
    for channel in series.double().unbind(1):
        steps = channel.unfold(0, size, 1)
        steps = steps - steps.mean(0)
        std = steps.square().mean(0).sqrt()
        if float(std.min()) <= 1e-12 * float(channel.abs().max()):
            raise ValueError("a channel is constant over the windows: its correlation is not defined; leave it out")
        steps = steps / std
        total += steps.mT @ steps / len(steps)
    total = total / series.shape[1]
    total.fill_diagonal_(1.0)
    return (total + total.mT) / 2


def decorrelating_basis(
    correlation: Float[Tensor, "size size"],
) -> tuple[Float[Tensor, "size size"], Float[Tensor, " size"]]:
    r"""Orthogonal Q whose columns are the eigenvectors of a correlation matrix, the largest eigenvalue first.

    Windows w (standardized, as columns) become \(Q^\top w\), whose entries are uncorrelated with variances λ. Each
    column's sign is such that its largest entry is positive. For a slowly varying series Q is close to the discrete
    cosine transform.

    Returns:
        Q and λ, in float64.

    Raises:
        ValueError: a matrix that is not symmetric.

    >>> Q, variances = decorrelating_basis(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    >>> variances
    tensor([1.5000, 0.5000], dtype=torch.float64)
    """
    matrix = correlation.double()
    if not torch.allclose(matrix, matrix.mT, atol=1e-9 * float(matrix.abs().max())):
        raise ValueError("the correlation matrix is not symmetric")
    values, vectors = torch.linalg.eigh(matrix)
    vectors, values = vectors.flip(1), values.flip(0)
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(peak < 0, -1.0, 1.0), values
