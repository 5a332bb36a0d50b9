r"""What symmetric noise does to the spectrum of a symmetric matrix.

The noise is a Wigner matrix: \(W = W^T\) of `size` rows, whose entries above the diagonal are independent with mean
zero and standard deviation `noise`. Alone, its eigenvalues fill \([-2\,\text{noise}\sqrt{\text{size}},
2\,\text{noise}\sqrt{\text{size}}]\) (the semicircle).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["semicircle_density", "semicircle_edge", "spiked_eigenvalues", "spiked_overlaps"]


def semicircle_edge(noise: float | int, size: int) -> float:
    """The largest eigenvalue of the noise alone, 2 · noise · √size, as size → ∞.

    Raises:
        ValueError: negative or infinite noise, or a size below 1.

    >>> semicircle_edge(0.5, 100)
    10.0
    """
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise={noise} is a standard deviation: it must be finite and not negative")
    if size < 1:
        raise ValueError(f"size={size}: a matrix has at least one row")
    return 2.0 * noise * math.sqrt(size)


def semicircle_density(values: Float[Tensor, " n"], noise: float | int, size: int) -> Float[Tensor, " n"]:
    r"""The density of the noise's eigenvalues, \(\frac{2}{\pi e^2}\sqrt{e^2 - x^2}\) with \(e\) the edge.

    Raises:
        ValueError: noise that is not positive (the density is then a point mass).
    """
    edge = semicircle_edge(noise, size)
    if edge == 0:
        raise ValueError("noise=0 has no density: all eigenvalues are 0")
    return 2 / (math.pi * edge**2) * torch.sqrt((edge**2 - values.square()).clamp(min=0))


def spiked_eigenvalues(spikes: Float[Tensor, " n"], noise: float | int, size: int) -> Float[Tensor, " n"]:
    r"""Where the noise moves the eigenvalues of a matrix of low rank.

    With \(e = \text{noise}\sqrt{\text{size}}\), half the edge:

    \[ \lambda \mapsto \lambda + e^2/\lambda \text{ if } |\lambda| > e, \qquad \operatorname{sign}(\lambda)\, 2e
    \text{ otherwise:} \]

    a spike above the threshold moves outwards, one below it is lost in the bulk, and its place is the edge.

    Raises:
        ValueError: spikes that are not finite, negative noise, or a size below 1.

    Source: Benaych-Georges and Nadakuditi, The eigenvalues and eigenvectors of finite, low rank perturbations of
    large random matrices (2011), section 3.1.

    >>> spiked_eigenvalues(torch.tensor([10.0, 4.0]), noise=0.5, size=100)
    tensor([12.5000, 10.0000])
    """
    half = semicircle_edge(noise, size) / 2
    if not torch.isfinite(spikes).all():
        raise ValueError("the spikes hold NaN or infinity")
    outside = spikes.abs() > half
    safe = torch.where(outside, spikes, torch.ones_like(spikes))
    edges = torch.where(spikes < 0, -2 * half, 2 * half).to(spikes.dtype)
    return torch.where(outside, spikes + half**2 / safe, edges)


def spiked_overlaps(spikes: Float[Tensor, " n"], noise: float | int, size: int) -> Float[Tensor, " n"]:
    r"""The squared cosine between a spike's eigenvector before and after the noise: \(\max(0, 1 - e^2/\lambda^2)\).

    Raises:
        ValueError: as `spiked_eigenvalues`.
    """
    half = semicircle_edge(noise, size) / 2
    if not torch.isfinite(spikes).all():
        raise ValueError("the spikes hold NaN or infinity")
    outside = spikes.abs() > half
    safe = torch.where(outside, spikes, torch.ones_like(spikes))
    return torch.where(outside, 1 - half**2 / safe.square(), torch.zeros_like(spikes))
