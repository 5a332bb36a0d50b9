"""A stack of sequence layers as a scikit-learn classifier of multivariate series."""

from __future__ import annotations

from typing import Any

import torch

from gramian.estimators.series.network import NetworkClassifier, classification_loss
from gramian.models.sequence import SequenceClassifier
from gramian.models.sequence.classifier import LAYERS, STEPPED

__all__ = ["StateSpaceClassifier", "classification_loss"]


class StateSpaceClassifier(NetworkClassifier):
    """Classify series with a stack of state space or linear attention layers.

    Channels are standardized with the training series' mean and deviation. A share of the training
    series is held out, stratified where that is possible, and the weights of its best epoch are kept.

    Args:
        layer: one of `gramian.models.sequence.classifier.LAYERS`: ``s4``, ``s4d``, ``s5-ptd``, ``s5-legs``,
            ``companion``, ``mamba``, ``mamba2``, ``gla``, ``deltanet`` or ``lion``.
        channels, depth, state_size: size of the stack; where the state is a matrix a head (the last three), heads are
            so many that the keys of each are at most `state_size` wide.
        epochs, batch_size, lr, weight_decay, dropout: of the training; the learning rate rises over the first
            epoch and falls to zero along a cosine.
        dt_range: range of the layers' steps; by default (0.64/length, 32/length), so that memories reach
            from a fraction of the series to many times its length. Layers without steps (``companion``, ``gla``,
            ``deltanet``, ``lion``) take none.
        layer_options: further arguments of every layer, such as ``{"init": "inv"}``.
        validation_fraction: share held out; 0 trains on everything and keeps the last weights.
        device: torch device; by default the CPU.
        random_state: integer seed of the start, the split, the shuffling and dropout.

    Attributes:
        classes_: the labels, sorted.
        network_: the trained `SequenceClassifier`.
        history_: the fit's `History`.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["a", "b"], 10)
    >>> series = rng.normal(size=(20, 12, 2)) + 2 * (labels == "b")[:, None, None]
    >>> model = StateSpaceClassifier(channels=8, depth=1, state_size=4, epochs=10).fit(series, labels)
    >>> model.predict(series[:1]).tolist()
    ['a']
    """

    def __init__(
        self,
        layer: str = "s4d",
        *,
        channels: int = 32,
        depth: int = 2,
        state_size: int = 16,
        epochs: int = 60,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 0.01,
        dropout: float = 0.1,
        dt_range: tuple[float, float] | None = None,
        layer_options: dict[str, Any] | None = None,
        validation_fraction: float = 0.15,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.layer = layer
        self.channels = channels
        self.depth = depth
        self.state_size = state_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.dt_range = dt_range
        self.layer_options = layer_options
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def _check(self) -> None:
        super()._check()
        if self.layer not in LAYERS:
            raise ValueError(f"layer={self.layer!r} is unknown; choose one of {', '.join(LAYERS)}")
        if self.dt_range is not None and self.layer not in STEPPED:
            raise ValueError(f"dt_range={self.dt_range}: the layer {self.layer!r} has no steps; leave it None")

    def _title(self) -> str:
        return self.layer

    def _network(self, generator: torch.Generator) -> SequenceClassifier:
        options: dict[str, Any] = {"state_size": self.state_size}
        if self.layer in STEPPED:
            options["dt_range"] = self.dt_range or (0.64 / self.length_, 32 / self.length_)
        return SequenceClassifier(
            self.n_features_in_,
            len(self.classes_),
            channels=self.channels,
            depth=self.depth,
            layer=self.layer,
            layer_options={**options, **(self.layer_options or {})},
            dropout=self.dropout,
            generator=generator,
        )
