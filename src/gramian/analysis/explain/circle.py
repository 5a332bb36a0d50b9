"""A probe for a circle in a network's states, and the intervention that moves states along it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["CircleProbe"]


class CircleProbe:
    r"""States whose part in some plane goes round a circle with a number that they encode.

    Two regressions on the circle \(C(m) = (\cos, \sin)(2\pi k m / p)\) of the number m. Reading: C(m) from the
    states' first principal components, which tells circles of other frequencies apart. Writing: the states from
    C(m), so that \(x \approx \bar x + C(m) B\) and B spans the plane in which the states turn. A state is moved to
    another number by \(x + (C(m') - C(\hat m)) B\) with \(\hat m\) the number that is read off it: it turns along
    the circle, and everything else about it stays.

    Args:
        period: p, the numbers are 0 … p − 1.
        frequency: k, how often the circle goes round; None takes the one along which the states vary most.
        components: of the states, to read from; None for all.

    Attributes:
        read: (width, 2), after `fit`.
        write: (2, width), B.
        share: of the states' variance, what turns along the circle.
        r2: the share of variance of (cos, sin) that the readings explain.

    Raises:
        ValueError: in `fit`, fewer than three numbers seen, or a frequency outside 1 … (p − 1)/2.

    Source: Engels et al., Not All Language Model Features Are Linear (2024), section 5; the paper writes through the
    inverse of the reading, which with few states is mostly noise.
    """

    def __init__(self, period: int, frequency: int | None = None, components: int | None = None) -> None:
        if period < 3:
            raise ValueError(f"period={period}: a circle needs three numbers at least")
        if frequency is not None and not 1 <= frequency <= (period - 1) // 2:
            raise ValueError(f"frequency={frequency} must lie in 1 … {(period - 1) // 2} for period={period}")
        if components is not None and components < 2:
            raise ValueError(f"components={components}: a circle needs a plane")
        self.period, self.frequency, self.components = period, frequency, components

    def circle(self, numbers: Int[Tensor, " items"], frequency: int | None = None) -> Float[Tensor, "items 2"]:
        """Where on the unit circle numbers stand."""
        k = frequency or self.frequency or 1
        angles = 2 * math.pi * k * numbers.double() / self.period
        return torch.stack((angles.cos(), angles.sin()), 1)

    def fit(self, states: Float[Tensor, "items width"], numbers: Int[Tensor, " _"]) -> CircleProbe:
        """Find the plane of the circle."""
        if len(states) != len(numbers):
            raise ValueError(f"{len(states)} states and {len(numbers)} numbers")
        if len(numbers) == 0 or len(numbers.unique()) < 3:
            raise ValueError("states of three different numbers at least are needed to tell a circle")
        x = states.detach().double()
        self.mean = x.mean(0)
        left, sizes, axes = torch.linalg.svd(x - self.mean, full_matrices=False)
        rank = int((sizes > 1e-9 * sizes[0].clamp(min=1e-300)).sum())
        rank = min(rank, self.components or rank)
        if rank < 2:
            raise ValueError("the states lie on a line, or are all the same: there is no plane for a circle")
        total = float((x - self.mean).square().sum())
        shares = {}
        for k in (self.frequency,) if self.frequency else range(1, (self.period - 1) // 2 + 1):
            target = self.circle(numbers, k)
            centred = target - target.mean(0)
            turn = torch.linalg.lstsq(centred, x - self.mean).solution
            shares[k] = (float((centred @ turn).square().sum()) / total, turn)
        self.frequency = max(shares, key=lambda k: shares[k][0])
        self.share, self.write = shares[self.frequency]
        target = self.circle(numbers)
        centred, self.offset = target - target.mean(0), target.mean(0)
        coefficients = left[:, :rank].T @ centred
        missed = (centred - left[:, :rank] @ coefficients).square().sum()
        self.r2 = 1 - float(missed / centred.square().sum())
        self.read = axes[:rank].T @ (coefficients / sizes[:rank, None])
        return self

    def readings(self, states: Float[Tensor, "items width"]) -> Float[Tensor, "items 2"]:
        """(cos, sin) as read off the states."""
        return (states.double() - self.mean) @ self.read + self.offset

    def predict(self, states: Float[Tensor, "items width"]) -> Int[Tensor, " items"]:
        """The number whose place on the circle is nearest to the reading's direction."""
        places = self.circle(torch.arange(self.period))
        return (self.readings(states) @ places.T).argmax(1)

    def move(
        self, states: Float[Tensor, "items width"], numbers: Int[Tensor, " items"]
    ) -> Float[Tensor, "items width"]:
        """The states turned along the circle to the places of `numbers`, and nothing else changed."""
        change = (self.circle(numbers) - self.circle(self.predict(states))) @ self.write
        return states + change.to(states)
