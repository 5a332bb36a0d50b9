r"""Maximum likelihood on unlabelled samples, then regression or classification on the learned posterior."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LinearRegression
from sklearn.mixture import GaussianMixture
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["FactorModel", "MixtureModel", "PretrainThenFit", "informative_ratio"]


class FactorModel(TransformerMixin, BaseEstimator):
    r"""The factor model of maximum likelihood: \(x = \mu + B z + s\,\varepsilon\), z and ε standard normal.

    With the covariance's eigenvalues \(\lambda_1 \ge \dots\) and eigenvectors U the maximum is closed:
    \(s^2\) is the mean of those after the r-th, and \(B = U_r (\Lambda_r - s^2 I)^{1/2}\), up to a rotation of z that
    no likelihood can see.

    Args:
        rank: r.

    Attributes:
        mean_, loadings_, noise_: μ, B of shape (features, rank), and s².

    Source: Tipping and Bishop, "Probabilistic Principal Component Analysis" (1999), appendix A.
    """

    def __init__(self, rank=2) -> None:
        self.rank = rank

    def fit(self, X: Any, y: Any = None) -> FactorModel:
        """Fit to X of shape (samples, features).

        Raises:
            ValueError: a rank that is not below the features, not more samples than it, or data without noise.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)
        samples, features = X.shape
        if not 1 <= self.rank < features:
            raise ValueError(f"rank={self.rank} must lie in 1 … {features - 1}, below the {features} features")
        if samples <= self.rank:
            raise ValueError(f"{samples} samples do not show {self.rank} factors: more than the rank are needed")
        self.mean_ = X.mean(0)
        values, vectors = linalg.eigh(np.cov(X.T, bias=True))
        self.noise_ = float(values[: features - self.rank].mean())
        if self.noise_ <= 1e-12 * max(values[-1], 1e-300):
            raise ValueError("nothing is left beside the factors, and the likelihood has no maximum: lower rank=")
        top = np.maximum(values[::-1][: self.rank] - self.noise_, 0)
        self.loadings_ = vectors[:, ::-1][:, : self.rank] * np.sqrt(top)
        return self

    @property
    def covariance_(self) -> np.ndarray:
        """B Bᵀ + s² I."""
        return self.loadings_ @ self.loadings_.T + self.noise_ * np.eye(len(self.loadings_))

    def transform(self, X: Any) -> np.ndarray:
        r"""Posterior means \((B^T B + s^2 I)^{-1} B^T (x - \mu)\)."""
        check_is_fitted(self, "loadings_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return (X - self.mean_) @ self.encoder_

    @property
    def encoder_(self) -> np.ndarray:
        """The matrix (features, rank) of the posterior mean."""
        inner = self.loadings_.T @ self.loadings_ + self.noise_ * np.eye(self.rank)
        return linalg.solve(inner, self.loadings_.T, assume_a="pos").T

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of a sample."""
        check_is_fitted(self, "loadings_")
        X = validate_data(self, X, reset=False, dtype=np.float64) - self.mean_
        factor = linalg.cholesky(self.covariance_, lower=True)
        white = linalg.solve_triangular(factor, X.T, lower=True)
        size = 2 * np.log(np.diag(factor)).sum() + X.shape[1] * math.log(2 * math.pi)
        return float(-0.5 * (np.square(white).sum(0).mean() + size))


class MixtureModel(TransformerMixin, BaseEstimator):
    """A Gaussian mixture by maximum likelihood; a sample becomes its posterior over the components.

    Args:
        components: how many.
        covariance: ``full``, ``tied``, ``diag`` or ``spherical``.
        random_state: seed of the starts, of which the best of three is kept.
    """

    def __init__(self, components=2, covariance="spherical", random_state=0) -> None:
        self.components = components
        self.covariance = covariance
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> MixtureModel:
        """Fit to X of shape (samples, features); raises ValueError where scikit-learn's mixture does."""
        X = validate_data(self, X, dtype=np.float64)
        self.mixture_ = GaussianMixture(
            self.components, covariance_type=self.covariance, n_init=3, random_state=self.random_state
        ).fit(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "mixture_")
        return self.mixture_.predict_proba(validate_data(self, X, reset=False, dtype=np.float64))


class PretrainThenFit(BaseEstimator):
    r"""A latent model fitted to unlabelled samples by maximum likelihood, then a head on its posterior.

    The excess risk falls like \(C_\Phi/m + C_\Psi/n\) in m unlabelled and n labelled samples, where learning from the
    labels alone pays \(C_{\Phi\circ\Psi}/n\), provided that what the likelihood finds matters for the labels.

    Args:
        latent: what turns samples into features; a `FactorModel` of rank 2 by default.
        head: what predicts from them; least squares by default.

    Attributes:
        latent_, head_: the fitted parts.

    Source: Ge, Tang, Fan and Jin, "On the Provable Advantage of Unsupervised Pretraining" (2023), algorithm 1.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((500, 1)) @ np.ones((1, 8)) + 0.1 * rng.standard_normal((500, 8))
    >>> model = PretrainThenFit(FactorModel(1)).fit(x[:5], x[:5].mean(1), unlabeled=x)
    >>> bool(abs(model.predict(x) - x.mean(1)).max() < 0.1)
    True
    """

    def __init__(self, latent=None, head=None) -> None:
        self.latent = latent
        self.head = head

    def fit(self, X: Any, y: Any, unlabeled: Any = None) -> PretrainThenFit:
        """Fit the latent model to `unlabeled` (without it to X), the head to X and y.

        Raises:
            ValueError: no labelled sample, or unlabelled ones with another number of features.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=1)
        y = np.asarray(y)
        if len(y) != len(X):
            raise ValueError(f"{len(X)} samples and {len(y)} labels do not fit")
        pool = X if unlabeled is None else np.asarray(unlabeled, dtype=np.float64)
        if pool.ndim != 2 or pool.shape[1] != X.shape[1]:
            raise ValueError(f"unlabelled samples of shape {pool.shape} do not have the {X.shape[1]} features of X")
        self.latent_ = clone(FactorModel() if self.latent is None else self.latent).fit(pool)
        self.head_ = clone(LinearRegression() if self.head is None else self.head).fit(self.latent_.transform(X), y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "head_")
        return self.head_.predict(self.latent_.transform(X))


def informative_ratio(model: FactorModel, covariance: np.ndarray, with_target: np.ndarray) -> float:
    r"""How much worse the best head on learned features predicts, for how well the model fits.

    \[ \kappa = \sqrt{\frac{R(\text{best head on the features}) - R(\text{best linear})}
                           {\mathrm{Var}(\text{best linear})\; \mathrm{KL}(N(0, \Sigma), N(0, \hat\Sigma))}} . \]

    The paper's condition asks for a bounded κ; one that grows as the fit gets better says that the likelihood looks
    at something that the target does not depend on.

    Args:
        model: a fitted factor model.
        covariance, with_target: Σ of the samples, and their covariances with the target, both of the population.

    Raises:
        ValueError: a target that no linear function of the samples predicts.
    """
    best = linalg.solve(covariance, with_target, assume_a="pos")
    explained = float(with_target @ best)
    if not explained > 0:
        raise ValueError("the target is uncorrelated with the samples: there is nothing to lose")
    encoder = model.encoder_
    seen = encoder.T @ with_target
    kept = float(seen @ linalg.solve(encoder.T @ covariance @ encoder, seen, assume_a="pos"))
    product = linalg.solve(model.covariance_, covariance, assume_a="pos")
    divergence = 0.5 * (np.trace(product) - len(covariance) - np.linalg.slogdet(product)[1])
    return math.sqrt(max(explained - kept, 0.0) / (explained * divergence))
