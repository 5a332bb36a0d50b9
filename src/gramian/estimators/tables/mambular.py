"""Mambular as scikit-learn estimators: classes, means, and normal distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from gramian.estimators.tables.encoding import ColumnEncoder
from gramian.models.tabular.mambular import Mambular
from gramian.optim.fit import fit

__all__ = ["MambularClassifier", "MambularLSS", "MambularRegressor"]


class _Mambular(BaseEstimator):
    """A `Mambular` on coded columns; subclasses say the targets and the loss."""

    # without types: scikit-learn's conventions ask that any value can be set, and that `fit` complains
    def __init__(
        self,
        *,
        bins=12,
        min_leaf=8,
        width=32,
        depth=2,
        state_size=16,
        bidirectional=False,
        pooling="mean",
        shuffle=False,
        dropout=0.2,
        epochs=20,
        batch_size=32,
        lr=3e-3,
        weight_decay=0.02,
        random_state=0,
    ) -> None:
        self.bins = bins
        self.min_leaf = min_leaf
        self.width = width
        self.depth = depth
        self.state_size = state_size
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.shuffle = shuffle
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.random_state = random_state

    def _frame(self, X: Any) -> pd.DataFrame:
        """X at prediction, with the columns of `fit`."""
        check_is_fitted(self, "network_")
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=False, skip_check_array=True)
            return X
        return pd.DataFrame(validate_data(self, X, reset=False, dtype=np.float64))

    def _validated(self, X: Any, y: Any, **settings: Any) -> tuple[pd.DataFrame, np.ndarray]:
        if isinstance(X, pd.DataFrame):
            # the encoder looks at the columns by their kinds; here only names, number and y are checked
            _, y = validate_data(self, np.zeros((len(X), 1)), y, **settings)
            validate_data(self, X, skip_check_array=True)
            return X, y
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2, **settings)
        return pd.DataFrame(X), y

    def _train(self, X: pd.DataFrame, codes: Tensor, y: np.ndarray, outputs: int, classification: bool) -> None:
        seed = 0 if self.random_state is None else int(self.random_state)
        self.encoder_ = ColumnEncoder(self.bins, classification, self.min_leaf, seed).fit(X, y)
        generator = torch.Generator().manual_seed(seed)
        counts = [len(levels) + 1 for levels in self.encoder_.levels]
        self.network_ = Mambular(
            len(self.encoder_.numbers), self.encoder_.length, counts, outputs, self.width, self.depth,
            state_size=self.state_size, bidirectional=self.bidirectional, pooling=self.pooling, shuffle=self.shuffle,
            dropout=self.dropout, generator=generator,
        )  # fmt: skip

        def loss(module: nn.Module, numbers: Tensor, categories: Tensor, targets: Tensor) -> Tensor:
            return self._loss(module(numbers, categories), targets)

        # dropout draws from torch's own state: fork it, so that a fit neither depends on it nor changes it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fit(
                self.network_, (*self._codes(X), codes), loss, epochs=self.epochs, lr=self.lr,
                batch_size=self.batch_size, weight_decay=self.weight_decay, schedule="cosine", clip=1.0,
                generator=generator, show_progress=False,
            )  # fmt: skip

    def _codes(self, X: pd.DataFrame) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.encoder_.numbers_of(X)), torch.from_numpy(self.encoder_.categories_of(X))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def _outputs(self, X: Any) -> Tensor:
        codes = self._codes(self._frame(X))
        self.network_.eval()
        with torch.inference_mode():
            parts = zip(*(part.split(1024) for part in codes), strict=True)
            return torch.cat([self.network_(*part) for part in parts])


class MambularClassifier(ClassifierMixin, _Mambular):
    """Classify the rows of a table, numbers and categories alike.

    Args:
        bins, min_leaf: most bins of a number's code, fewest training rows in one.
        width, depth, state_size, bidirectional, pooling, shuffle, dropout: of the `Mambular`.
        epochs, batch_size, lr, weight_decay: of the training.
        random_state: integer seed of bins, start, shuffling and dropout.

    Attributes:
        classes_: the labels, sorted.
        encoder_: codes of the columns.
        network_: the trained `Mambular`.
    """

    def fit(self, X: Any, y: Any) -> MambularClassifier:
        """Train; raises ValueError for fewer than two classes and for columns that the encoder refuses."""
        frame, y = self._validated(X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only ({self.classes_[0]!r}); at least two are needed")
        self._train(frame, torch.from_numpy(codes), codes, len(self.classes_), True)
        return self

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """Class probabilities, in the order of `classes_`."""
        return F.softmax(self._outputs(X), -1).numpy()

    def predict(self, X: Any) -> Shaped[np.ndarray, " samples"]:
        """The most probable class of each row."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]


class _OfNumbers(RegressorMixin, _Mambular):
    """What both regressions share: standardized targets."""

    outputs = 1

    def fit(self, X: Any, y: Any) -> Any:
        """Train; raises ValueError for columns that the encoder refuses."""
        frame, y = self._validated(X, y, y_numeric=True)
        y = np.asarray(y, dtype=np.float64)
        self.center_, self.spread_ = float(y.mean()), float(y.std()) or 1.0
        y = (y - self.center_) / self.spread_
        self._train(frame, torch.as_tensor(y, dtype=torch.float32), y, self.outputs, False)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, " samples"]:
        """The mean of each row's target."""
        means = self._outputs(X)[:, 0].numpy()
        return self.center_ + self.spread_ * means


class MambularRegressor(_OfNumbers):
    """Predict a number for each row of a table, by least squares; arguments as of `MambularClassifier`."""

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0], targets)


class MambularLSS(_OfNumbers):
    """Predict a normal distribution for each row of a table, by its likelihood.

    The network gives the mean and, through a softplus, the standard deviation; both in units of the training targets'
    spread, the latter at least 0.05 of it. Arguments as of `MambularClassifier`.
    """

    outputs = 2

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        scale = _scale(outputs)
        return (((targets - outputs[:, 0]) / scale).square() / 2 + scale.log()).mean()

    def predict_scale(self, X: Any) -> Float[np.ndarray, " samples"]:
        """The standard deviation of each row's target."""
        scale = _scale(self._outputs(X)).numpy()
        return self.spread_ * scale

    def log_likelihood(self, X: Any, y: Any) -> Float[np.ndarray, " samples"]:
        """Logarithm of the density at y, in the units of y."""
        scale = self.predict_scale(X).astype(np.float64)
        return (
            -0.5 * ((np.asarray(y, dtype=np.float64) - self.predict(X)) / scale) ** 2
            - np.log(scale)
            - 0.5 * np.log(2 * np.pi)
        )


def _scale(outputs: Tensor) -> Tensor:
    # bounded away from 0, so that one row that is hit exactly does not take the likelihood to infinity
    return F.softplus(outputs[:, 1]) + 0.05
