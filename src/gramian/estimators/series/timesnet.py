"""TimesNet's classification form as a scikit-learn classifier of multivariate series."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.estimators.series.network import NetworkClassifier
from gramian.models.series.timesnet import TimesNet

__all__ = ["TimesNetClassifier"]


class TimesNetClassifier(NetworkClassifier):
    """Classify series by their planes of dominant periods.

    The network chooses the periods of a batch by its mean amplitudes. That is how it is trained; a prediction would
    then depend on the series beside it, so each is predicted by itself, with its own periods.

    Args:
        channels, hidden, layers, periods, kernels, dropout: of the `TimesNet`; periods are at most half the steps.
        epochs, batch_size, lr, weight_decay, validation_fraction, device, random_state: of the training, as in
            `StateSpaceClassifier`.

    Attributes:
        classes_: the labels, sorted.
        network_: the trained `TimesNet`.
        history_: the fit's `History`.

    Source: Wu et al. (arXiv 2210.02186).
    """

    _one_length = True

    def __init__(
        self,
        *,
        channels: int = 16,
        hidden: int = 16,
        layers: int = 1,
        periods: int = 3,
        kernels: int = 4,
        dropout: float = 0.1,
        epochs: int = 40,
        batch_size: int = 32,
        lr: float = 3e-3,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.15,
        device: str = "cpu",
        random_state: int = 0,
    ) -> None:
        self.channels = channels
        self.hidden = hidden
        self.layers = layers
        self.periods = periods
        self.kernels = kernels
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state

    def _network(self, generator: torch.Generator) -> TimesNet:
        return TimesNet(
            "classify", self.length_, self.n_features_in_, len(self.classes_), self.channels, self.hidden, self.layers,
            self.periods, self.kernels, self.dropout, generator=generator,
        )  # fmt: skip

    def _logits(self, *inputs: Tensor) -> Float[Tensor, "samples classes"]:
        return torch.cat([self.network_(series[None]) for series in inputs[0]])
