"""Estimators on sets of positive definite matrices, (samples, n, n)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from gramian.linalg.manifold import spd
from gramian.linalg.manifold.spd_functions import check_spd

__all__ = ["MinimumDistanceToMean", "TangentSpace"]


def _matrices(X: np.ndarray) -> torch.Tensor:
    X = np.asarray(X)
    if X.ndim != 3 or X.shape[1] != X.shape[2]:
        raise ValueError(f"expected matrices of shape (samples, n, n); got an array of shape {X.shape}")
    matrices = torch.as_tensor(X, dtype=torch.float64)
    check_spd(matrices, "X")
    return matrices


class TangentSpace(TransformerMixin, BaseEstimator):
    """Positive definite matrices as vectors: coordinates of their logarithms at the mean of the training set.

    The n(n+1)/2 coordinates are isometric: the norm of a vector is the distance of its matrix to the mean.

    Args:
        metric: a key of `gramian.linalg.manifold.spd.METRICS`, or a metric.
        tol, max_iter: of the mean, see `SPDMetric.frechet_mean`.

    Attributes:
        mean_: the Fréchet mean of the training matrices.

    Raises:
        NotPositiveDefiniteError: a matrix that is not positive definite.

    Source: Barachant et al., "Multiclass brain–computer interface classification by Riemannian geometry" (2012).
    """

    def __init__(
        self, metric: str | spd.SPDMetric = "affine-invariant", tol: float = 1e-10, max_iter: int = 100
    ) -> None:
        self.metric = metric
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Float[np.ndarray, "samples n n"], y: object = None) -> TangentSpace:
        """Compute the mean."""
        matrices = _matrices(X)
        self.mean_ = spd.metric(self.metric).frechet_mean(matrices, tol=self.tol, max_iter=self.max_iter).numpy()
        return self

    def transform(self, X: Float[np.ndarray, "samples n n"]) -> Float[np.ndarray, "samples entries"]:
        """The tangent coordinates at the mean."""
        check_is_fitted(self)
        matrices = _matrices(X)
        if matrices.shape[-1] != self.mean_.shape[-1]:
            raise ValueError(
                f"fitted on {self.mean_.shape[-1]}×{self.mean_.shape[-1]} matrices, got {tuple(matrices.shape)}"
            )
        return spd.metric(self.metric).tangent_space(matrices, torch.as_tensor(self.mean_)).numpy()


class MinimumDistanceToMean(ClassifierMixin, BaseEstimator):
    """Assigns a matrix to the class whose Fréchet mean is nearest.

    Args:
        metric, tol, max_iter: as in `TangentSpace`.

    Attributes:
        classes_: the labels, sorted.
        means_: one mean a class.
    """

    def __init__(
        self, metric: str | spd.SPDMetric = "affine-invariant", tol: float = 1e-10, max_iter: int = 100
    ) -> None:
        self.metric = metric
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Float[np.ndarray, "samples n n"], y: Shaped[np.ndarray, " samples"]) -> MinimumDistanceToMean:
        """Compute one mean a class."""
        matrices, metric = _matrices(X), spd.metric(self.metric)
        self.classes_ = np.unique(y)
        means = [
            metric.frechet_mean(matrices[torch.as_tensor(y == label)], tol=self.tol, max_iter=self.max_iter)
            for label in self.classes_
        ]
        self.means_ = torch.stack(means).numpy()
        return self

    def distances(self, X: Float[np.ndarray, "samples n n"]) -> Float[np.ndarray, "samples classes"]:
        """The distance of every matrix to every mean."""
        check_is_fitted(self)
        matrices, metric = _matrices(X), spd.metric(self.metric)
        return torch.stack([metric.dist(mean, matrices) for mean in torch.as_tensor(self.means_)], dim=1).numpy()

    def predict(self, X: Float[np.ndarray, "samples n n"]) -> Shaped[np.ndarray, " samples"]:
        """The label of the nearest mean."""
        distances = self.distances(X)
        return self.classes_[distances.argmin(axis=1)]
