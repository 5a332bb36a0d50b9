r"""Outlier features: the few columns of a network's activations that are far larger than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.reducers import Reducer
from gramian.analysis.taps import Taps

__all__ = ["Exceed", "OutlierProfile", "outlier_profile"]


class Exceed(Reducer):
    """How often each feature reaches a magnitude, and its largest magnitude."""

    def __init__(self, threshold: float | int = 6.0) -> None:
        super().__init__()
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold}: a magnitude is at least 0")
        self.threshold = float(threshold)
        self._hits = torch.zeros(0, dtype=torch.int64)
        self._largest = torch.zeros(0)

    def update(self, x: Float[Tensor, "samples features"]) -> None:
        if len(x):
            size = x.detach().abs()
            self._take(len(x), (size >= self.threshold).sum(0), size.amax(0).float())

    def merge(self, other: Reducer) -> None:
        self._same_kind(other)
        assert isinstance(other, Exceed)
        if other.threshold != self.threshold:
            raise ValueError(f"thresholds differ: {self.threshold} and {other.threshold}")
        if other.count:
            self._take(other.count, other._hits, other._largest)

    def _take(self, count: int, hits: Tensor, largest: Tensor) -> None:
        self._hits = hits if self.count == 0 else self._hits + hits
        self._largest = largest if self.count == 0 else torch.maximum(self._largest, largest)
        self.count += count

    @property
    def share(self) -> Float[Tensor, " features"]:
        """The share of positions in which each feature reaches the threshold."""
        self._seen()
        return self._hits.double() / self.count

    @property
    def largest(self) -> Float[Tensor, " features"]:
        """The largest magnitude of each feature."""
        self._seen()
        return self._largest

    @property
    def nbytes(self) -> int:
        return self._hits.nbytes + self._largest.nbytes


@dataclass(frozen=True)
class OutlierProfile:
    """The outliers of every tapped layer's input.

    Attributes:
        share: for each layer, the share of positions in which each input feature reaches the threshold.
        largest: for each layer, each input feature's largest magnitude.
        threshold: the magnitude from which a feature counts as an outlier.
    """

    share: dict[str, Tensor]
    largest: dict[str, Tensor]
    threshold: float

    def outlier_share(self, name: str) -> float:
        """The share of a layer's input features that are outliers somewhere."""
        return float((self.share[name] > 0).double().mean())

    def emergent(self, layer_share: float = 0.25, position_share: float = 0.06) -> Int[Tensor, " features"]:
        """The features of the residual stream that are outliers in many layers and positions.

        Only layers of the most common input width are compared: they read the same stream.

        Source: Dettmers et al., LLM.int8() (2022), section 4: magnitude at least 6 in at least 25% of the layers
        and 6% of the positions.
        """
        width, _ = Counter(len(s) for s in self.share.values()).most_common(1)[0]
        shares = torch.stack([s for s in self.share.values() if len(s) == width])
        return torch.nonzero((shares >= position_share).double().mean(0) >= layer_share).flatten()


def outlier_profile(
    model: nn.Module, batches: Iterable[Any], layers: str | Iterable[str] = "*", threshold: float | int = 6.0
) -> OutlierProfile:
    """Run a model and record which input features of its linear layers are outliers.

    Args:
        batches: what the model is called with: tensors, tuples of arguments or dictionaries of named ones.
        layers: patterns of the names of linear layers; others that match are left out.
        threshold: magnitude from which a feature is an outlier.

    Raises:
        ValueError: no linear layer matches, or a threshold below 0.
    """
    from fnmatch import fnmatchcase

    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    names = [n for n in linear if any(fnmatchcase(n, p) for p in patterns)]
    if not names:
        raise ValueError(f"no linear layer matches {', '.join(patterns)}; some are {', '.join(linear[:8]) or '(none)'}")
    with torch.no_grad(), Taps(model, {n: [Exceed(threshold)] for n in names}, side="in") as taps:
        for batch in batches:
            if isinstance(batch, Tensor):
                model(batch)
            elif hasattr(batch, "keys"):
                model(**batch)
            else:
                model(*batch)
    share, largest = {}, {}
    for name in names:
        with suppress(ValueError):  # a layer that no batch reached
            share[name], largest[name] = taps[name][0].share, taps[name][0].largest  # type: ignore[attr-defined]
    if not share:
        raise ValueError("no batch reached any of the layers")
    return OutlierProfile(share, largest, float(threshold))
