"""TSCMamba as a scikit-learn classifier of multivariate series."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from gramian.linalg.signal.rocket import RandomKernels
from gramian.linalg.signal.scalogram import morlet_scales, scalogram
from gramian.models.series.tscmamba import TSCMamba
from gramian.optim.fit import fit

__all__ = ["TSCMambaClassifier"]


class TSCMambaClassifier(ClassifierMixin, BaseEstimator):
    """Classify series by their scalograms and random convolution features.

    Channels are standardized with the training series; so are the logarithms of the scalograms and the features. None
    of it changes with what is predicted later.

    Args:
        kernels: random kernels of the second view (two features each).
        width, image, patch, fusion, pooling, flip_back: of the `TSCMamba`.
        epochs, batch_size, lr, weight_decay: of the training.
        random_state: integer seed of kernels, start, shuffling and dropout.

    Attributes:
        classes_: the labels, sorted.
        network_: the trained `TSCMamba`.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["slow", "fast"], 10)
    >>> speed = np.where(labels == "slow", 0.2, 1.2)[:, None, None]
    >>> series = np.sin(speed * np.arange(40)[:, None] + rng.uniform(0, 6, (20, 1, 1)))
    >>> model = TSCMambaClassifier(kernels=20, width=8, image=16, patch=4, epochs=10).fit(series, labels)
    >>> model.predict(series[:1]).tolist()
    ['slow']
    """

    def __init__(
        self,
        *,
        kernels: int = 200,
        width: int = 32,
        image: int = 32,
        patch: int = 8,
        fusion: str = "sum",
        pooling: str = "mean",
        flip_back: bool = False,
        epochs: int = 40,
        batch_size: int = 32,
        lr: float = 3e-3,
        weight_decay: float = 0.05,
        random_state: int = 0,
    ) -> None:
        self.kernels = kernels
        self.width = width
        self.image = image
        self.patch = patch
        self.fusion = fusion
        self.pooling = pooling
        self.flip_back = flip_back
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> TSCMambaClassifier:
        """Train on X (n, length, channels) with labels y.

        Raises:
            ValueError: unequal lengths or values that are not finite, fewer than two classes, a patch that does not
                divide the image.
        """
        X, y = _series(X), np.asarray(y)
        if y.shape != (len(X),):
            raise ValueError(f"y must hold one label a series: {len(X)} series, y of shape {y.shape}")
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only ({self.classes_[0]!r}); at least two are needed")
        self.length_, self.n_features_in_ = int(X.shape[1]), int(X.shape[2])
        self.mean_, std = X.mean((0, 1)), X.std((0, 1))
        self.scale_ = np.where(std > 0, std, 1.0)
        generator = torch.Generator().manual_seed(int(self.random_state))
        self.kernels_ = RandomKernels(self.length_, self.kernels, generator)
        images, features = self._raw_views(X)
        self.view_scales_ = tuple((v.mean((0, 1)), v.std((0, 1)).clamp_min(1e-6)) for v in (images, features))
        self.network_ = TSCMamba(
            self.n_features_in_, features.shape[-1], len(self.classes_), self.width, self.image, self.patch,
            fusion=self.fusion, pooling=self.pooling, flip_back=self.flip_back, generator=generator,
        )  # fmt: skip

        def loss(module: nn.Module, images: Tensor, features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(module(images, features), labels)

        # dropout draws from torch's own state: fork it, so that a fit neither depends on it nor changes it
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.random_state))
            fit(
                self.network_, (*self._views(X), torch.as_tensor(codes)), loss, epochs=self.epochs, lr=self.lr,
                batch_size=self.batch_size, weight_decay=self.weight_decay, schedule="cosine", clip=1.0,
                generator=generator, show_progress=False,
            )  # fmt: skip
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "samples classes"]:
        """Class probabilities, in the order of `classes_`."""
        check_is_fitted(self, "network_")
        X = _series(X)
        if X.shape[1:] != (self.length_, self.n_features_in_):
            raise ValueError(f"X has shape {X.shape}; the classifier was fitted on (n, {self.length_}, "
                             f"{self.n_features_in_})")  # fmt: skip
        self.network_.eval()
        with torch.inference_mode():
            return F.softmax(self.network_(*self._views(X)).double(), -1).numpy()

    def predict(self, X: Any) -> Shaped[np.ndarray, " samples"]:
        """The most probable class of each series."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _raw_views(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        flat = torch.as_tensor((X - self.mean_) / self.scale_, dtype=torch.float32).mT.contiguous()
        loud = torch.log(scalogram(flat, morlet_scales(self.length_, self.image).float()) + 1e-3)
        images = F.interpolate(loud.flatten(0, 1)[:, None], (self.image, self.image), mode="bilinear")
        return images[:, 0].unflatten(0, flat.shape[:2]), self.kernels_.features(flat)

    def _views(self, X: np.ndarray) -> tuple[Tensor, Tensor]:
        views = zip(self._raw_views(X), self.view_scales_, strict=True)
        images, features = ((view - mean) / std for view, (mean, std) in views)
        return images, features


def _series(X: Any) -> np.ndarray:
    """X as a finite array (n, length, channels), or why not."""
    if isinstance(X, list | tuple) and len({np.shape(series)[0] for series in X}) > 1:
        raise ValueError("the series have unequal lengths; this classifier takes one length: cut, pad or resample them")
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 3 or 0 in X.shape:
        raise ValueError(f"X must have shape (n, length, channels), not {X.shape}; one channel is X[..., None]")
    if not np.isfinite(X).all():
        raise ValueError("X holds NaN or infinite values; fill or drop them first")
    return X
