r"""Classifiers by kernels that weigh the training labels: of infinitely deep networks, and Hilbert's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from gramian.analysis.kernels import infinite_width

__all__ = ["HilbertKernelClassifier", "InfiniteDepthClassifier"]


class _KernelVote(ClassifierMixin, BaseEstimator):
    """Every training label has a vote of the kernel's weight; subclasses say its logarithm."""

    def fit(self, X: Any, y: Any) -> Any:
        """Keep the samples; raises ValueError for what the kernel cannot take."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, self.labels_ = np.unique(y, return_inverse=True)
        self._check(X)
        self.samples_ = X
        return self

    def _check(self, X: np.ndarray) -> None:
        raise NotImplementedError

    def _log_weights(self, X: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def predict_proba(self, X: Any) -> np.ndarray:
        """Shares of the votes, (samples, classes)."""
        check_is_fitted(self, "samples_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        self._check(X)
        member = np.eye(len(self.classes_))[self.labels_]
        votes = []
        for part in np.array_split(X, max(1, len(X) * len(self.samples_) // 4_000_000)):
            logs = self._log_weights(part)
            votes.append(np.exp(logs - logs.max(1, keepdims=True)) @ member)
        votes = np.concatenate(votes)
        return votes / votes.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "samples_")
        return self.classes_[self.predict_proba(X).argmax(1)]


class HilbertKernelClassifier(_KernelVote):
    r"""Votes of weight \(\|x - x_i\|^{-\alpha}\); consistent where α is the dimension of the samples' space.

    Args:
        alpha: above 0.

    Source: Devroye, Györfi and Krzyżak, "The Hilbert kernel regression estimate" (1998).
    """

    def __init__(self, alpha=2.0) -> None:
        self.alpha = alpha

    def _check(self, X: np.ndarray) -> None:
        if not 0 < self.alpha < np.inf:
            raise ValueError(f"alpha={self.alpha} must be positive and finite")

    def _log_weights(self, X: np.ndarray) -> np.ndarray:
        # differences, not |x|² + |y|² − 2xy: the weight of near neighbours is all that counts
        apart = torch.cdist(*map(torch.from_numpy, (X, self.samples_)), compute_mode="donot_use_mm_for_euclid_dist")
        return -self.alpha * np.log(np.maximum(apart.numpy(), 1e-150))


class InfiniteDepthClassifier(_KernelVote):
    r"""The limit of infinitely wide networks as they get deep: labels weighed by the kernel.

    A kernel regression whose kernel matrix tends to a multiple of the identity is a vote with the kernel's weights.

    Args:
        dual: the activation's dual (`infinite_width.HermiteDual`, `ReluDual`); by default that of the optimal
            activation for the samples' sphere.
        depth: layers; enough for the limit by default.
        kind: ``nngp`` or ``ntk``.

    Raises:
        ValueError: in `fit` and `predict`, samples of other lengths than 1, or with negative numbers.

    Source: Radhakrishnan, Belkin and Uhler (2022).
    """

    def __init__(self, dual=None, depth=200, kind="nngp") -> None:
        self.dual = dual
        self.depth = depth
        self.kind = kind

    def _check(self, X: np.ndarray) -> None:
        lengths = np.linalg.norm(X, axis=1)
        if np.abs(lengths - 1).max() > 1e-6:
            raise ValueError(
                f"samples must lie on the unit sphere; lengths are {lengths.min():.4g} … {lengths.max():.4g}"
            )
        if X.min() < 0:
            raise ValueError("samples must have no negative numbers: the limits hold for positive correlations")

    def _log_weights(self, X: np.ndarray) -> np.ndarray:
        dual = self.dual
        if dual is None:
            dual = infinite_width.optimal_activation(max(2, X.shape[1] - 1))[1]
        # 1 − |x − y|²/2 keeps the digits of correlations next to 1
        apart = torch.cdist(*map(torch.from_numpy, (X, self.samples_)), compute_mode="donot_use_mm_for_euclid_dist")
        similarity = (1 - apart.square() / 2).clamp(1e-300, 1)
        return infinite_width.log_kernel(similarity, dual, self.depth, self.kind).numpy()
