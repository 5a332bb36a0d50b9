r"""A model of learning features: a point holds some features, a network knows some, and it is right if they meet.

A point is dominant with probability p, else rare. A dominant point holds \(n_d\) of \(t_d\) features, a network knows
\(c_d\) of them; likewise for rare. If the network knows none of a point's features it tosses a coin (two classes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["Framework", "Sample", "miss"]


def miss(t: int, c: int, n: int) -> float:
    r"""Probability that n of t features, drawn at random, are none of c given ones: \(\binom{t-c}{n} / \binom{t}{n}\).

    >>> miss(10, 5, 1), miss(4, 3, 2)
    (0.5, 0.0)
    """
    return math.comb(t - c, n) / math.comb(t, n)


@dataclass(frozen=True)
class Sample:
    """Draws of a point and two networks that know nothing of each other.

    Attributes:
        first, second: whether each network is right.
    """

    first: Bool[Tensor, " draws"]
    second: Bool[Tensor, " draws"]

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return float(torch.stack((self.first, self.second)).double().mean())

    @property
    def agreement(self) -> float:
        """How often the two say the same: of two classes, both right or both wrong."""
        return float((self.first == self.second).double().mean())


@dataclass(frozen=True)
class Framework:
    """The parameters, each as (dominant, rare).

    Attributes:
        features: t, how many there are.
        held: n, of a point.
        known: c, of a network.
        dominant: p, the share of dominant points.

    Raises:
        ValueError: n or c outside 0 … t, or p outside [0, 1].

    Source: Jiang, Baek and Kolter, On the Joint Interaction of Models, Data, and Features (2023), section 4; the
    parametrization is our reading of what is public of it.
    """

    features: tuple[int, int]
    held: tuple[int, int]
    known: tuple[int, int]
    dominant: float | int = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.dominant <= 1:
            raise ValueError(f"dominant={self.dominant} is a probability")
        for t, n, c in zip(self.features, self.held, self.known, strict=True):
            if not (0 <= n <= t and 0 <= c <= t):
                raise ValueError(
                    f"a point with {n} and a network with {c} of {t} features: neither exceeds their number"
                )

    @property
    def misses(self) -> tuple[float, float]:
        """q: how likely a network knows none of a point's features, for dominant and rare points."""
        found = [miss(t, c, n) for t, c, n in zip(self.features, self.known, self.held, strict=True)]
        return found[0], found[1]

    @property
    def accuracy(self) -> float:
        r"""Expected accuracy of a network, \(\sum_i p_i (1 - q_i / 2)\)."""
        return sum(p * (1 - q / 2) for p, q in zip(self._weights, self.misses, strict=True))

    @property
    def agreement(self) -> float:
        r"""Expected agreement of two networks, \(\sum_i p_i (1 + (1 - q_i)^2) / 2\).

        Accuracy less agreement is \(\sum_i p_i\, q_i (1 - q_i) / 2 \ge 0\): the two are equal exactly if every kind of
        point is always known or never.
        """
        return sum(p * (1 + (1 - q) ** 2) / 2 for p, q in zip(self._weights, self.misses, strict=True))

    @property
    def _weights(self) -> tuple[float, float]:
        return float(self.dominant), 1 - float(self.dominant)

    def sample(self, draws: int, generator: torch.Generator | None = None) -> Sample:
        """Draw points and pairs of networks, feature by feature.

        Raises:
            ValueError: no draw.
        """
        if draws < 1:
            raise ValueError(f"draws={draws}: one at least is needed")
        dominant = torch.rand(draws, generator=generator) < self.dominant
        right = torch.rand(2, draws, generator=generator) < 0.5  # the coins
        for kind, rows in ((0, torch.nonzero(dominant).flatten()), (1, torch.nonzero(~dominant).flatten())):
            t, n, c = self.features[kind], self.held[kind], self.known[kind]
            point = _subset(len(rows), t, n, generator)
            for network in range(2):
                knows = (point & _subset(len(rows), t, c, generator)).any(1)
                right[network, rows] |= knows
        return Sample(right[0], right[1])


def _subset(count: int, t: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Random subsets of t things, as rows of a mask."""
    chosen = torch.rand(count, t, generator=generator).argsort(1)[:, :size]
    return torch.zeros(count, t, dtype=torch.bool).scatter_(1, chosen, True)
