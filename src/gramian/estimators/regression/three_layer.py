r"""A network with three layers, trained one after the other: a polynomial feature, then a function of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from gramian.estimators.regression.random_features import ridge
from gramian.linalg.functions import hermite

__all__ = ["LayerwiseThreeLayer", "NotGaussianWarning", "WeakFeatureWarning"]


class NotGaussianWarning(UserWarning):
    """The inputs are far from standard normal, for which the feature of the first stage is meant."""


class WeakFeatureWarning(UserWarning):
    """The feature that the first stage found says little about the targets of new samples."""


class LayerwiseThreeLayer(RegressorMixin, BaseEstimator):
    r"""Regression on \(h = g(p(x))\) with p a polynomial of a known degree and x standard normal.

    Stage 1, on the first half of the samples: ridge regression on \(h_k(\langle v_j, x\rangle)\), k the degree, \(v_j\)
    random unit vectors; what it predicts is the degree-k part of the target, along p if \(\mathbb E[g'(p)] \ne 0\).
    Stage 2, on the second half: ridge regression on \(\mathrm{relu}(\pm z + b_j)\) of that feature z, standardized.

    Args:
        degree: k, of the inner polynomial.
        features: hidden units of the first stage; None takes twice the number of monomials of degree k, at most 4000.
        outer: hidden units of the second stage.
        alpha: the ridge's strength in both stages, or ``"auto"``: leave-one-out chooses.
        random_state: seed of both layers.

    Attributes:
        feature_score_: correlation of the feature with the targets of the second half, which stage 1 did not see.
        weak_feature_: whether that is below 1/2, a quarter of the variance; a warning says so too.

    Source: Wang, Nichani and Lee, "Learning Hierarchical Polynomials with Three-Layer Neural Networks" (2023); ridge
    regression stands for gradient descent on the square loss with weight decay, details of stage 2 are ours.
    """

    # without types: scikit-learn's conventions ask that any value can be set, and that `fit` complains
    def __init__(self, degree=2, features=None, outer=60, alpha=1e-3, random_state=0) -> None:
        self.degree = degree
        self.features = features
        self.outer = outer
        self.alpha = alpha
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # of targets without a part of the degree, such as linear ones
        return tags

    def fit(self, X: Any, y: Any) -> LayerwiseThreeLayer:
        """Fit both stages, each on one half of the samples.

        Raises:
            ValueError: a degree below 1, fewer than one unit, or a strength that is not positive (without a ridge,
                units may outnumber samples).
        """
        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        if self.degree < 1:
            raise ValueError(f"degree={self.degree} must be at least 1")
        if self.outer < 1 or (self.features is not None and self.features < 1):
            raise ValueError(f"features={self.features} and outer={self.outer} must be at least 1")
        scale = X.std(0)
        if len(X) >= 50 and (np.abs(X.mean(0)).max() > 0.5 or scale.max() > 1.5 or scale.min() < 0.5):
            warnings.warn("inputs should be about standard normal: standardize them", NotGaussianWarning, stacklevel=2)
        rng = np.random.default_rng(self.random_state)
        count = self.features
        if count is None:
            count, monomials = 1, 1
            for k in range(self.degree):
                monomials = monomials * (X.shape[1] + k) // (k + 1)
            count = min(2 * monomials, 4000)
        inner = rng.standard_normal((X.shape[1], count))
        self.inner_ = inner / np.linalg.norm(inner, axis=0)
        half = len(X) // 2
        self.first_ = ridge(self.alpha, True).fit(self._units(X[:half]), y[:half])
        raw = self.first_.predict(self._units(X[half:]))
        self.center_, self.spread_ = float(raw.mean()), float(raw.std()) or 1.0
        varies = raw.std() > 0 and y[half:].std() > 0 and len(raw) > 2
        self.feature_score_ = float(np.corrcoef(raw, y[half:])[0, 1]) if varies else 0.0
        self.weak_feature_ = self.feature_score_ < 0.5
        if self.weak_feature_ and len(raw) >= 200:
            text = f"feature and targets correlate by {self.feature_score_:.2f}: a part of degree {self.degree}?"
            warnings.warn(text, WeakFeatureWarning, stacklevel=2)
        self.signs_ = np.where(rng.random(self.outer) < 0.5, -1.0, 1.0)
        self.bias_ = rng.uniform(-3, 3, self.outer)
        self.second_ = ridge(self.alpha, True).fit(self._outer((raw - self.center_) / self.spread_), y[half:])
        return self

    def _units(self, X: np.ndarray) -> np.ndarray:
        found = hermite.hermite(self.degree, torch.from_numpy(X @ self.inner_)).numpy()
        return found / np.sqrt(found.shape[1])

    def _outer(self, z: np.ndarray) -> np.ndarray:
        return np.maximum(z[:, None] * self.signs_ + self.bias_, 0)

    def feature(self, X: Any) -> np.ndarray:
        """What stage 1 found, standardized: the inner polynomial up to sign and scale."""
        check_is_fitted(self, "second_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return (self.first_.predict(self._units(X)) - self.center_) / self.spread_

    def predict(self, X: Any) -> np.ndarray:
        units = self._outer(self.feature(X))
        return self.second_.predict(units)
