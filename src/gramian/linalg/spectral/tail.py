"""The tail of a spectrum: how heavy it is, and how much of it random entries would explain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PowerLaw:
    r"""A power law \(p(x) \propto x^{-\alpha}\) fitted to the values from `start` on.

    Attributes:
        exponent: \(\alpha\).
        start: the smallest value that the law covers.
        count: how many values it covers.
        distance: the Kolmogorov–Smirnov distance between the law and those values.
    """

    exponent: float
    start: float
    count: int
    distance: float


def power_law_tail(values: Float[Tensor, " values"], least: int = 10) -> PowerLaw:
    r"""Fit a power law to the tail of positive values, its start chosen by the Kolmogorov–Smirnov distance.

    For each candidate start \(x_0\) among the values, the maximum-likelihood exponent of the \(n\) values from
    there on is \(\alpha = 1 + n / \sum_i \log(x_i / x_0)\); the start whose law is closest to its values wins.
    All starts are tried at once: memory and time grow with the square of the number of values.

    Args:
        values: such as the eigenvalues of \(W^T W\); zeros and negatives are left out.
        least: how many values a tail must hold.

    Raises:
        ValueError: fewer than `least` positive values, or values that do not differ.

    Source: Clauset, Shalizi and Newman, Power-law distributions in empirical data (2009), sections 3.1 and 3.3.

    >>> x = (1 - torch.arange(400, dtype=torch.float64) / 400) ** (-1 / 2)  # the quantiles of x^-3
    >>> round(power_law_tail(x).exponent, 1)
    3.0
    """
    x = values.double().flatten()
    x = x[x > 0].sort().values
    if least < 2 or len(x) < least:
        raise ValueError(f"{len(x)} positive values; a tail needs at least {max(least, 2)}")
    if x[-1] == x[0]:
        raise ValueError("all values are equal: they have no tail")
    logs = x.log()
    count = torch.arange(len(x), 0, -1, dtype=torch.float64)  # how many values from each start on
    above = logs.flip(0).cumsum(0).flip(0) - count * logs
    exponent = 1 + count / above.clamp(min=1e-300)
    starts = torch.arange(len(x) - least + 1)
    starts = starts[above[starts] > 0]
    # row i: the law from start i at every later value, against the share of values before and up to it
    ratio = logs[None, :] - logs[starts, None]
    law = 1 - torch.exp(-(exponent[starts, None] - 1) * ratio)
    rank = torch.arange(len(x))[None, :] - starts[:, None]
    gap = torch.maximum((law - rank / count[starts, None]).abs(), ((rank + 1) / count[starts, None] - law).abs())
    distance = gap.masked_fill(rank < 0, 0).amax(1)
    best = int(distance.argmin())
    i = int(starts[best])
    return PowerLaw(float(exponent[i]), float(x[i]), int(count[i]), float(distance[best]))


def random_edge(rows: int, columns: int, variance: float) -> float:
    r"""The largest singular value that independent entries would give: \(s(\sqrt{m} + \sqrt{n})\), variance \(s^2\).

    Singular values above it carry structure (Marchenko and Pastur, 1967; the limit of large matrices).

    Raises:
        ValueError: a size below one, or a negative variance.
    """
    if rows < 1 or columns < 1 or variance < 0:
        raise ValueError(f"rows={rows}, columns={columns}, variance={variance}: sizes at least 1, variance at least 0")
    return math.sqrt(variance) * (math.sqrt(rows) + math.sqrt(columns))
