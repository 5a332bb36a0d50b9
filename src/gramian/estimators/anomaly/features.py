"""Features of images out of a trained network, one matrix a level of its depth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin

from gramian import models
from gramian.models.vision import EfficientNetLite, preprocess

NETWORKS = ("efficientnet_lite0",)


@lru_cache(maxsize=2)
def _network(name: str) -> EfficientNetLite:
    """Kept beside the estimator and not in it: a saved detector holds the network's name, not its weights."""
    return models.pretrained(name)


class LevelFeatures(TransformerMixin, BaseEstimator):
    """The feature maps of a frozen network, averaged over the picture: one vector a level.

    For EfficientNet-Lite0 these are 9 levels (stem, seven stages, head) of 32, 16, 24, 40, 80, 112, 192,
    320 and 1280 numbers. The pictures are resized whole, not cropped: an anomaly may lie at the border.

    Args:
        network: name of a trained network of `gramian.models.pretrained`; its weights are looked up by this
            name whenever they are needed and are no part of the fitted estimator.
        size: side to which pictures are resized.
        batch_size: pictures that go through the network at once.
        join: True gives one matrix (pictures, all features), for detectors that know no levels.

    Raises:
        ValueError: an unknown network, a picture that is not uint8 (height, width[, 3]), or no picture.
        Missing: the weights are not on this machine; the message names the command that brings them.
    """

    def __init__(
        self, network: str = "efficientnet_lite0", size: int = 224, batch_size: int = 16, join: bool = False
    ) -> None:
        self.network = network
        self.size = size
        self.batch_size = batch_size
        self.join = join

    def __sklearn_is_fitted__(self) -> bool:
        """Always: the network was trained elsewhere."""
        return True

    def fit(self, X: np.ndarray | Sequence[np.ndarray], y: object = None) -> LevelFeatures:
        """Check the pictures; nothing is estimated."""
        check_pictures(X)
        return self

    def transform(
        self, X: np.ndarray | Sequence[np.ndarray]
    ) -> list[Float[np.ndarray, "pictures _"]] | Float[np.ndarray, "pictures features"]:
        """One float64 matrix a level, or all of them side by side where `join` is set."""
        name = str(self.network).lower().replace("-", "_")
        if name not in NETWORKS:
            raise ValueError(f"network={self.network!r} has no levels to read; choose one of {', '.join(NETWORKS)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        pictures, network = check_pictures(X), _network(name)
        rows: list[list[np.ndarray]] = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.batch_size):
                batch = pictures[start : start + self.batch_size]
                x = torch.stack([preprocess(picture, crop=False, size=self.size) for picture in batch])
                rows.append([level.mean(dim=(2, 3)).double().numpy() for level in network.levels(x)])
        levels = [np.concatenate(parts) for parts in zip(*rows)]
        return np.concatenate(levels, axis=1) if self.join else levels


def check_pictures(pictures: Any) -> list[np.ndarray]:
    """The pictures as a list; they may differ in size.

    Raises:
        ValueError: there are none, or one is not uint8 (height, width) or (height, width, 3).
    """
    pictures = list(pictures)
    if not pictures:
        raise ValueError("no pictures given")
    for i, picture in enumerate(pictures):
        shape, dtype = np.shape(picture), getattr(picture, "dtype", type(picture).__name__)
        if dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
            raise ValueError(f"picture {i} has shape {shape} and type {dtype}; uint8 (height, width[, 3]) is needed")
    return pictures
