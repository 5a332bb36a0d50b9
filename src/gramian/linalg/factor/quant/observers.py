"""Observers: what range activations have, read off a calibration."""

from __future__ import annotations

import abc
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.linalg.factor.quant.symmetric import to_scale

__all__ = ["LargestMagnitude", "Observer", "Percentile", "magnitude_percentile"]


class Observer(abc.ABC):
    """Sees batches, then says which step the integers should have."""

    @abc.abstractmethod
    def update(self, x: Float[Tensor, "*batch features"]) -> None:
        """See more activations.

        Raises:
            ValueError: NaN or infinity.
        """

    @property
    @abc.abstractmethod
    def largest(self) -> Tensor | None:
        """The largest magnitude to be represented, alone or for each feature; None before anything was seen."""

    def scale(self, bits: int = 8) -> Tensor:
        """The step between codes.

        Raises:
            ValueError: nothing was seen.
        """
        if self.largest is None:
            raise ValueError("no activations were seen: run calibration texts through the network first")
        return to_scale(self.largest, bits)


class LargestMagnitude(Observer):
    """The largest |x| of all batches, over everything or over each group of features.

    Args:
        group_of: the group of each feature; None: all features are one group.
    """

    def __init__(self, group_of: Int[Tensor, " features"] | None = None) -> None:
        self.group_of = group_of
        self._largest: Tensor | None = None

    def update(self, x: Float[Tensor, "*batch features"]) -> None:
        found = _magnitudes(x).amax(0)
        if self.group_of is None:
            found = found.amax()
        self._largest = found if self._largest is None else torch.maximum(self._largest, found)

    @property
    def largest(self) -> Tensor | None:
        if self.group_of is None or self._largest is None:
            return self._largest
        count = int(self.group_of.max()) + 1
        groups = self._largest.new_zeros(count).scatter_reduce_(0, self.group_of, self._largest, "amax")
        return groups[self.group_of]


class Percentile(Observer):
    r"""A moving average of each batch's percentile of |x|: \(m \leftarrow m + \sigma\,(p_\alpha(|x|) - m)\).

    A few spikes then do not set the step of all others; they are cut.

    Args:
        alpha: the share of magnitudes that is kept; 1 is the largest.
        momentum: σ.

    Raises:
        ValueError: a share outside (0.5, 1], σ outside (0, 1].

    Source: Chiang et al., "Quamba", 2024, section 4.2; σ = 0.01 is the released code's.
    """

    def __init__(self, alpha: float | int, momentum: float | int = 0.01) -> None:
        if not 0.5 < alpha <= 1:
            raise ValueError(f"percentile={alpha}: the share of magnitudes to keep lies above 0.5 and up to 1")
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum={momentum} lies above 0 and up to 1")
        self.alpha, self.momentum = float(alpha), float(momentum)
        self._largest: Tensor | None = None

    def update(self, x: Float[Tensor, "*batch features"]) -> None:
        found = magnitude_percentile(_magnitudes(x).flatten(), self.alpha)
        self._largest = found if self._largest is None else self._largest + self.momentum * (found - self._largest)

    @property
    def largest(self) -> Tensor | None:
        return self._largest


def magnitude_percentile(magnitudes: Float[Tensor, " count"], alpha: float) -> Float[Tensor, ""]:
    """The quantile at `alpha`, linear between neighbours, by the few largest alone: of any number of magnitudes."""
    place = alpha * (len(magnitudes) - 1)
    low = math.floor(place)
    top = magnitudes.topk(len(magnitudes) - low).values
    upper = top[-2] if len(top) > 1 else top[-1]
    return top[-1] + (place - low) * (upper - top[-1])


def _magnitudes(x: Tensor) -> Tensor:
    found = x.detach().abs().flatten(0, -2) if x.ndim > 1 else x.detach().abs()[None]
    if not bool(torch.isfinite(found).all()):
        raise ValueError("NaN or infinity in the activations of the calibration")
    return found
