"""Maximum mean discrepancy: how far two samples are from coming from one distribution."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["median_distance", "mmd_squared"]


def median_distance(x: Float[Tensor, "samples features"]) -> float:
    """The median Euclidean distance between two different samples.

    Raises:
        ValueError: fewer than two samples.

    >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    2.0
    """
    if len(x) < 2:
        raise ValueError(f"{len(x)} sample(s): at least 2 are needed")
    return float(torch.pdist(x).median())


def mmd_squared(
    x: Float[Tensor, "samples_x features"], y: Float[Tensor, "samples_y features"], bandwidth: float | int
) -> float:
    r"""Unbiased estimate of \(\mathbb E k(x, x') + \mathbb E k(y, y') - 2\, \mathbb E k(x, y)\).

    \(k(a, b) = \exp(-\|a - b\|^2 / 2 h^2)\). Zero on average where both samples come from one distribution, so that
    single estimates may be negative.

    Args:
        bandwidth: h.

    Raises:
        ValueError: fewer than two samples on a side, or a bandwidth that is not positive.

    Source: Gretton et al. (2012), equation 3.

    >>> points = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    >>> round(mmd_squared(points, points + 100, 1.0), 2)   # nothing in common: what each has in itself
    1.5
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} and {len(y)} samples: at least 2 each are needed")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth={bandwidth} must be positive")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / (2 * float(bandwidth) ** 2))

    def within(a: Tensor) -> Tensor:
        total = kernel(a, a)
        return (total.sum() - total.diagonal().sum()) / (len(a) * (len(a) - 1))

    wide = torch.float64
    x, y = x.detach().to(wide), y.detach().to(wide)
    return float(within(x) + within(y) - 2 * kernel(x, y).mean())
