"""Chimera's two-dimensional state spaces as a scikit-learn classifier of multivariate series."""

from __future__ import annotations

import torch

from gramian.estimators.series.network import NetworkClassifier
from gramian.models.series.chimera import ChimeraClassifier

__all__ = ["ChimeraSeriesClassifier"]


class ChimeraSeriesClassifier(NetworkClassifier):
    """Classify series with state spaces that run along time and across the channels.

    Args:
        patch: steps in a cell; a series has at least one, and what is left over at its start is dropped.
        channels, state_size, layers, coupled, dropout: of the `ChimeraClassifier`.
        epochs, batch_size, lr, weight_decay, validation_fraction, device, random_state: of the training, as in
            `StateSpaceClassifier`.

    Attributes:
        classes_: the labels, sorted.
        network_: the trained `ChimeraClassifier`.
        history_: the fit's `History`.

    Source: Behrouz, Santacatterina and Zabih (arXiv 2406.04320).

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["a", "b"], 10)
    >>> series = rng.normal(size=(20, 12, 2)) + 2 * (labels == "b")[:, None, None]
    >>> model = ChimeraSeriesClassifier(channels=8, layers=1, state_size=4, epochs=10).fit(series, labels)
    >>> model.predict(series[:1]).tolist()
    ['a']
    """

    def __init__(
        self,
        *,
        patch: int = 4,
        channels: int = 16,
        state_size: int = 4,
        layers: int = 1,
        coupled: bool = True,
        dropout: float = 0.1,
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.15,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.patch = patch
        self.channels = channels
        self.state_size = state_size
        self.layers = layers
        self.coupled = coupled
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def _network(self, generator: torch.Generator) -> ChimeraClassifier:
        return ChimeraClassifier(
            self.n_features_in_, len(self.classes_), self.patch, self.channels, self.state_size,
            self.layers, coupled=self.coupled, dropout=self.dropout, generator=generator,
        )  # fmt: skip
