"""Gaussian anomaly detection: how far do features lie from those of normal examples, in units of their spread?"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.stats import chi2
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.covariance import ledoit_wolf
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from gramian.estimators.anomaly.features import LevelFeatures

REDUCTIONS = (None, "pca", "npca")
P = 0.9973
"""The share of normal examples within three deviations in one dimension: the default working point."""


class GaussianAD(OutlierMixin, BaseEstimator):
    """One Gaussian a level of features; the score is the mean of the levels' Mahalanobis distances.

    With mean μ and Ledoit–Wolf covariance Σ of a level's k features, d = √((x − μ)ᵀ Σ⁻¹ (x − μ)), and a
    sample's distance is the mean of d over the levels. For Gaussian features of known Σ, d² is
    chi-square distributed with k degrees of freedom, hence the working point √χ²ₖ(p), averaged over the levels.
    It is exact for one level and samples ≫ k. With fewer samples than features the shrunken covariance makes
    it a convention only: choose a threshold on held-out normal examples then.

    Args:
        reduction: None for all features; "pca" for the leading components of each level, up to and with the
            one at which the cumulative variance crosses `variance`; "npca" for those after it,
            from one before the crossing on.
        variance: the share of variance that the crossing is about.

    Attributes:
        means_: mean of each level.
        whiteners_: matrix W of each level with d = ‖(x − μ) W‖; without reduction W Wᵀ = Σ⁻¹.
        shrinkages_: Ledoit–Wolf's weight of the scaled identity in each Σ.
        offset_: minus the threshold of the default working point.

    Raises:
        ValueError: fewer than 2 samples, levels that differ in number, widths or samples, values that are not
            finite, a level that is the same for all samples, an unknown reduction, or a variance or p
            outside (0, 1).

    Source: Rippel, Mertens and Merhof, "Modeling the distribution of normal data in pre-trained deep
    features for anomaly detection" (2020), sections 3.1 to 3.3.

    >>> rng = np.random.default_rng(0)
    >>> normal = [rng.normal(size=(200, 4)), rng.normal(size=(200, 6))]
    >>> detector = GaussianAD().fit(normal)
    >>> detector.predict([np.zeros((1, 4)), np.full((1, 6), 5.0)]).tolist()
    [-1]
    """

    # scikit-learn's rule: a constructor takes anything and `fit` judges it, so the types stand in Args alone
    def __init__(self, reduction: Any = None, variance: Any = 0.99) -> None:
        self.reduction = reduction
        self.variance = variance

    def fit(self, X: Any, y: object = None) -> GaussianAD:
        """Estimate one Gaussian a level from normal samples: a matrix (samples, features), or a list of them."""
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction={self.reduction!r} is not one of {', '.join(map(repr, REDUCTIONS))}")
        if not 0 < self.variance < 1:
            raise ValueError(f"variance={self.variance} must lie between 0 and 1")
        levels = self._levels(X, fitting=True)
        self.means_: list[np.ndarray] = []
        self.whiteners_: list[np.ndarray] = []
        self.shrinkages_: list[float] = []
        for number, level in enumerate(levels):
            mean = level.mean(axis=0)
            whitener, shrinkage = self._whitener(level - mean, number)
            self.means_.append(mean)
            self.whiteners_.append(whitener)
            self.shrinkages_.append(shrinkage)
        self.offset_ = -self.threshold(P)
        return self

    def level_distances(self, X: Any) -> Float[np.ndarray, "samples levels"]:
        """The Mahalanobis distance of every sample to the normal ones, for each level."""
        check_is_fitted(self, "whiteners_")
        levels = self._levels(X, fitting=False)
        parts = zip(levels, self.means_, self.whiteners_)
        return np.stack([np.linalg.norm((level - mean) @ w, axis=1) for level, mean, w in parts], axis=1)

    def distance(self, X: Any) -> Float[np.ndarray, " samples"]:
        """The mean of the levels' distances: larger is more anomalous."""
        return self.level_distances(X).mean(axis=1)

    def score_samples(self, X: Any) -> Float[np.ndarray, " samples"]:
        """Minus the distance: as everywhere in scikit-learn, larger is more normal."""
        return -self.distance(X)

    def decision_function(self, X: Any) -> Float[np.ndarray, " samples"]:
        """`score_samples` from the default working point on: negative is anomalous."""
        return self.score_samples(X) - self.offset_

    def threshold(self, p: float) -> float:
        """The distance that a share p of normal samples stays below, by the chi-square law."""
        check_is_fitted(self, "whiteners_")
        if not 0 < p < 1:
            raise ValueError(f"p={p} must lie between 0 and 1; it is the share of normal samples to call normal")
        return float(np.mean([np.sqrt(chi2.ppf(p, w.shape[1])) for w in self.whiteners_]))

    def predict(self, X: Any, p: float = P) -> Int[np.ndarray, " samples"]:
        """1 for normal, −1 for anomalous: farther than a share p of normal samples."""
        return np.where(self.distance(X) > self.threshold(p), -1, 1)

    def _levels(self, X: Any, *, fitting: bool) -> list[np.ndarray]:
        """X as checked float64 matrices, one a level."""
        least = 2 if fitting else 1
        if not _is_levels(X):
            if not fitting and self.n_levels_ is not None:
                raise ValueError(
                    f"fitted on {self.n_levels_} levels, got one matrix: give a list with one matrix a level"
                )
            self.n_levels_ = None if fitting else self.n_levels_
            return [validate_data(self, X, reset=fitting, dtype=np.float64, ensure_min_samples=least)]
        names = [f"level {i}" for i in range(len(X))]
        levels = [check_array(x, dtype=np.float64, ensure_min_samples=least, input_name=n) for x, n in zip(X, names)]
        widths = tuple(level.shape[1] for level in levels)
        if len({len(level) for level in levels}) > 1:
            raise ValueError(f"the levels have {[len(level) for level in levels]} samples; all need the same ones")
        if fitting:
            self.n_levels_, self.widths_ = len(levels), widths
        elif self.n_levels_ is None:
            raise ValueError(f"fitted on one matrix, got {len(levels)} levels: give one matrix")
        elif widths != self.widths_:
            raise ValueError(f"fitted on levels of widths {self.widths_}, got {widths}")
        return levels

    def _whitener(self, centred: np.ndarray, number: int) -> tuple[np.ndarray, float]:
        """W with Σ⁻¹ = W Wᵀ in the kept components, mapped back to the features; and the shrinkage."""
        scale = np.abs(centred).max()
        if scale == 0:
            raise ValueError(
                f"level {number} is the same for all {len(centred)} samples: there is no spread to measure"
            )
        components = np.eye(centred.shape[1]) if self.reduction is None else self._components(centred / scale)
        covariance, shrinkage = ledoit_wolf(centred / scale @ components.T, assume_centered=True)
        try:
            lower = cholesky(covariance, lower=True)
        except LinAlgError:
            raise ValueError(
                f"level {number} has {components.shape[0]} features that depend on each other exactly, and the "
                "Ledoit–Wolf shrinkage is nought: drop the doubled ones, or use reduction='pca'"
            ) from None
        inverse = solve_triangular(lower, np.eye(len(lower)), lower=True)
        return components.T @ inverse.T / scale, float(shrinkage)

    def _components(self, centred: np.ndarray) -> np.ndarray:
        """The kept principal directions, as rows."""
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        # centring takes one dimension: the last direction of n ≤ k samples is rounding, not data
        rank = int(np.sum(singular > singular[0] * max(centred.shape) * np.finfo(np.float64).eps))
        singular, rows = singular[:rank], rows[:rank]
        explained = np.cumsum(singular**2) / np.sum(singular**2)
        crossing = int(np.argmax(explained > self.variance))
        return rows[: crossing + 1] if self.reduction == "pca" else rows[max(crossing - 1, 0) :]


def _is_levels(X: Any) -> bool:
    return isinstance(X, (list, tuple)) and len(X) > 0 and all(isinstance(x, np.ndarray) and x.ndim == 2 for x in X)


def image_detector(
    reduction: str | None = None, variance: float = 0.99, *, network: str = "efficientnet_lite0", size: int = 224
) -> Pipeline:
    """A detector of anomalous images: `LevelFeatures` of a trained network into `GaussianAD`.

    It takes lists of uint8 pictures (height, width[, 3]). What it learns are the Gaussians alone; a saved
    one names the network and holds none of its weights.

    Args:
        reduction, variance: of `GaussianAD`.
        network, size: of `LevelFeatures`.
    """
    return make_pipeline(LevelFeatures(network, size=size), GaussianAD(reduction, variance))
