r"""Eigenvalues of sample covariances: what noise alone gives, and what it does to directions that are real.

`samples` rows of `features` independent numbers of variance σ² have a sample covariance whose eigenvalues fill the
interval of Marchenko and Pastur, with \(\gamma\) = features/samples. A population with a few larger variances (spikes)
shows them as eigenvalues outside, moved and turned by the noise.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from scipy import integrate, optimize
from torch import Tensor

__all__ = ["fit_noise", "marchenko_pastur_cdf", "marchenko_pastur_edges", "spiked_covariance"]


def _checked(ratio: float | int, variance: float | int = 1.0) -> None:
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio={ratio} is features over samples: it must be positive and finite")
    if not 0 < variance < math.inf:
        raise ValueError(f"variance={variance} must be positive and finite")


def marchenko_pastur_edges(ratio: float | int, variance: float | int = 1.0) -> tuple[float, float]:
    r"""The ends \(\sigma^2(1 \mp \sqrt\gamma)^2\) of the noise's nonzero eigenvalues.

    Raises:
        ValueError: a ratio or a variance that is not positive and finite.

    Source: Marchenko and Pastur (1967).

    >>> marchenko_pastur_edges(0.25, 2.0)
    (0.5, 4.5)
    """
    _checked(ratio, variance)
    root = math.sqrt(ratio)
    return variance * (1 - root) ** 2, variance * (1 + root) ** 2


def marchenko_pastur_cdf(value: float | int, ratio: float | int) -> float:
    r"""The share of the nonzero noise eigenvalues of unit variance below a value.

    The density is \(\sqrt{(b - x)(x - a)} / (2\pi\gamma' x)\) over the interval (a, b), \(\gamma' = \min(\gamma, 1)\).

    Raises:
        ValueError: a ratio that is not positive and finite.

    >>> round(marchenko_pastur_cdf(1.0, 0.01), 2)
    0.51
    """
    low, high = marchenko_pastur_edges(ratio)
    if value <= low:
        return 0.0
    if value >= high:
        return 1.0
    # x = low + (high − low) sin²(t) takes the roots at both ends away
    top = math.asin(math.sqrt((value - low) / (high - low)))

    def density(t: float) -> float:
        x = low + (high - low) * math.sin(t) ** 2
        return (high - low) ** 2 * (math.sin(2 * t) ** 2) / (4 * math.pi * min(ratio, 1.0) * x) if x > 0 else 0.0

    return min(1.0, integrate.quad(density, 0.0, top, limit=200)[0])


def fit_noise(eigenvalues: Float[Tensor, " n"], ratio: float | int) -> float:
    r"""The variance of the noise: the median eigenvalue over that of Marchenko and Pastur at unit variance.

    Spikes do not matter as long as they are few. With more features than samples only the nonzero eigenvalues count.

    Raises:
        ValueError: no positive eigenvalue, or a ratio that is not positive.

    Source: Gavish and Donoho, "The optimal hard threshold for singular values is 4/√3" (2014), section 3.
    """
    _checked(ratio)
    values = eigenvalues.double()
    if ratio > 1:
        values = values.sort().values[-max(1, round(len(values) / ratio)) :]
    middle = float(values.quantile(0.5)) if len(values) else 0.0
    if not (middle > 0 and math.isfinite(middle)):
        raise ValueError(f"the median eigenvalue is {middle}: take more samples, or fewer features")
    low, high = marchenko_pastur_edges(ratio)
    unit = optimize.brentq(lambda x: marchenko_pastur_cdf(x, ratio) - 0.5, low, high, xtol=1e-10)
    return middle / float(unit)


def spiked_covariance(
    spikes: Float[Tensor, " n"], ratio: float | int, variance: float | int = 1.0
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""Where population variances show up among the sample's eigenvalues, and how well their directions are found.

    With \(\ell\) a spike over σ²: beyond the threshold \(1 + \sqrt\gamma\) its eigenvalue tends to
    \(\sigma^2 \ell\,(1 + \gamma/(\ell - 1))\) and the squared cosine between true and found direction to
    \(\frac{1 - \gamma/(\ell-1)^2}{1 + \gamma/(\ell-1)}\); below, to the noise's edge and to 0.

    Returns:
        eigenvalues, squared cosines.

    Raises:
        ValueError: spikes that are not positive and finite, or a ratio or variance that is not.

    Source: Baik, Ben Arous and Péché (2005); Paul (2007).

    >>> spiked_covariance(torch.tensor([4.0, 1.2]), 0.5)[0]
    tensor([4.6667, 2.9142])
    """
    _checked(ratio, variance)
    if not bool(((spikes > 0) & torch.isfinite(spikes)).all()):
        raise ValueError("spikes are variances: they must be positive and finite")
    level = spikes / variance
    outside = level > 1 + math.sqrt(ratio)
    safe = torch.where(outside, level - 1, torch.ones_like(level))
    edge = marchenko_pastur_edges(ratio, variance)[1]
    values = torch.where(outside, spikes * (1 + ratio / safe), torch.full_like(spikes, edge))
    overlaps = (1 - ratio / safe.square()) / (1 + ratio / safe)
    return values, torch.where(outside, overlaps, torch.zeros_like(overlaps))
