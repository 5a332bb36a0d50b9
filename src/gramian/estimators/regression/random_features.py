r"""Ridge regression on random features: of a hidden ReLU layer, and of attention heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.utils.validation import check_is_fitted, validate_data

from gramian.nn.attention import rf_attention

__all__ = ["RFAttentionRegressor", "RandomFeatureRidge", "ridge"]

ALPHAS = tuple(10.0**k for k in range(-6, 5))


def ridge(alpha: float | str, intercept: bool) -> Any:
    """Ridge regression with a fixed α, or with the one that leaving one sample out finds best.

    Raises:
        ValueError: an α that is neither positive nor ``"auto"``.
    """
    if alpha == "auto":
        return RidgeCV(alphas=ALPHAS, fit_intercept=intercept)
    if isinstance(alpha, str) or not 0 < alpha < float("inf"):
        raise ValueError(f'alpha={alpha!r} must be positive and finite, or "auto"')
    # the Cholesky solver goes through the Gram matrix of the samples where these are fewer than the features
    return Ridge(alpha, fit_intercept=intercept, solver="cholesky")


class RandomFeatureRidge(MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""Ridge regression on \(\mathrm{relu}(W x + b)/\sqrt M\), W and b standard normal and frozen, W over √d.

    Args:
        features: M, hidden units.
        alpha: the ridge's strength, or ``"auto"``: leave-one-out chooses among powers of ten.
        random_state: seed of the draw.

    Attributes:
        weight_, bias_: of the hidden layer.
        ridge_: the fitted regression.
    """

    # without types: scikit-learn's conventions ask that any value can be set, and that `fit` complains
    def __init__(self, features=1000, alpha="auto", random_state=0) -> None:
        self.features = features
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RandomFeatureRidge:
        """Draw the layer and fit the regression.

        Raises:
            ValueError: fewer than one feature, or α that is not positive.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        if self.features < 1:
            raise ValueError(f"features={self.features} must be at least 1")
        rng = np.random.default_rng(self.random_state)
        self.weight_ = rng.standard_normal((X.shape[1], self.features)) / np.sqrt(X.shape[1])
        self.bias_ = rng.standard_normal(self.features)
        self.ridge_ = ridge(self.alpha, True).fit(self._hidden(X), y)
        return self

    def _hidden(self, X: np.ndarray) -> np.ndarray:
        return np.maximum(X @ self.weight_ + self.bias_, 0) / np.sqrt(self.features)

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "ridge_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.ridge_.predict(self._hidden(X))


class RFAttentionRegressor(RegressorMixin, BaseEstimator):
    r"""Regression on a query and a set of keys by random attention heads, values fitted by ridge regression.

    A sample is a matrix (1 + keys, features) whose first row is the query; a prediction does not depend on the order
    of the keys.

    Args:
        heads: random frozen heads.
        mean: of the query-key matrices' diagonal; 0 or, for targets made of ⟨query, key⟩, above.
        constant: whether a 1 is appended to every token.
        alpha: the ridge's strength, or ``"auto"``: leave-one-out chooses among powers of ten.
        random_state: seed of the heads.

    Attributes:
        layer_: the attention layer, its values fitted.

    Source: Fu, Guo, Bai and Mei, "What can a Single Attention Layer Learn?" (2023).
    """

    def __init__(
        self,
        heads: int = 1000,
        mean: float = 0.0,
        constant: bool = True,
        alpha: float | str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.heads = heads
        self.mean = mean
        self.constant = constant
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> RFAttentionRegressor:
        """Fit the values to X of shape (samples, 1 + keys, features).

        Raises:
            ValueError: another shape, samples without keys, numbers that are not finite, or as many y as are not there.
        """
        X, y = self._checked(X), np.asarray(y, dtype=np.float64)
        if y.shape[:1] != (len(X),):
            raise ValueError(f"{len(X)} samples and targets of shape {y.shape} do not fit")
        seed = np.random.SeedSequence(self.random_state).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        outputs = 1 if y.ndim == 1 else y.shape[1]
        self.n_features_in_ = X.shape[2]
        self.layer_ = rf_attention.RandomFeatureAttention(
            X.shape[2], self.heads, mean=self.mean, constant=self.constant, outputs=outputs, generator=generator
        ).double()
        # no intercept: the layer has none
        fitted = ridge(self.alpha, False).fit(self._features(X), y)
        with torch.no_grad():
            self.layer_.value.copy_(torch.from_numpy(np.atleast_2d(fitted.coef_).T))
        self.single_ = y.ndim == 1
        return self

    def _checked(self, X: Any) -> np.ndarray:
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 3 or X.shape[1] < 2:
            raise ValueError(f"samples of shape (1 + keys, features), at least one key, are needed; got {X.shape}")
        if not np.isfinite(X).all():
            raise ValueError("X holds NaN or infinite numbers")
        return X

    def _features(self, X: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return torch.cat([self.layer_.feature_map(part) for part in torch.from_numpy(X).split(256)]).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Predictions, (samples,) or (samples, outputs) like the targets."""
        check_is_fitted(self, "layer_")
        X = self._checked(X)
        if X.shape[2] != self.n_features_in_:
            raise ValueError(f"tokens of {X.shape[2]} numbers do not fit those of the fit, {self.n_features_in_}")
        found = self._features(X) @ self.layer_.value.detach().numpy()
        return found[:, 0] if self.single_ else found
