"""Augmented covariance: a series is classified by the covariance of its delay embedding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from gramian.estimators.series.embedding import check_series, delay_embedding, select_embedding
from gramian.estimators.spd import MinimumDistanceToMean, TangentSpace
from gramian.linalg.manifold import spd
from gramian.linalg.manifold.spd_functions import NotPositiveDefiniteError

__all__ = ["AugmentedCovariance", "AugmentedCovarianceClassifier", "autoregression"]

CLASSIFIERS = ("logistic", "svm", "mdm")
EMBEDDINGS = ("fixed", "grid", "dynamical")


class AugmentedCovariance(TransformerMixin, BaseEstimator):
    """The covariance of [x(t), x(t − τ), …, x(t − (p−1)τ)], one matrix a series.

    With C channels it is pC × pC, block-Toeplitz up to edge effects: block (i, j) estimates the lag
    covariance Γ((j − i)τ). It is the matrix of the Yule–Walker equations of an autoregressive model of
    order p, so it holds what order-p linear dynamics can say; p = 1 is the ordinary covariance.

    Args:
        order: p, the number of delayed copies.
        lag: τ, in samples.
        shrinkage: s in (1 − s)Σ + s (tr Σ / pC) I; positive values make a short series' matrix definite.

    Raises:
        ValueError: order or lag below 1, shrinkage outside [0, 1], NaN, (p − 1)τ ≥ length − 1, or a
            number of channels other than that of `fit`.
        NotPositiveDefiniteError: fewer embedded samples than dimensions and no shrinkage.

    Source: Carrara and Papadopoulo, "Classification of BCI-EEG based on augmented covariance matrix" (2023).

    >>> AugmentedCovariance(order=3, lag=2).fit_transform(np.random.default_rng(0).normal(size=(5, 100, 4))).shape
    (5, 12, 12)
    """

    def __init__(self, order: int = 2, lag: int = 1, shrinkage: float = 0.0) -> None:
        self.order = order
        self.lag = lag
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray | Sequence[np.ndarray], y: object = None) -> AugmentedCovariance:
        """Check the series and remember their channels; nothing is estimated."""
        self.n_channels_ = check_series(X)[0].shape[1]
        return self

    def transform(self, X: np.ndarray | Sequence[np.ndarray]) -> Float[np.ndarray, "samples n n"]:
        """One matrix a series."""
        check_is_fitted(self)
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage={self.shrinkage} is not in [0, 1]")
        series = check_series(X)
        if series[0].shape[1] != self.n_channels_:
            raise ValueError(f"fitted on {self.n_channels_} channels, got {series[0].shape[1]}")
        size = self.order * self.n_channels_
        result = np.empty((len(series), size, size))
        by_length: dict[int, list[int]] = {}
        for index, one in enumerate(series):
            by_length.setdefault(len(one), []).append(index)
        for length, indices in by_length.items():
            embedded = delay_embedding(np.stack([series[i] for i in indices]), self.order, self.lag)
            if self.shrinkage == 0 and embedded.shape[1] <= size:
                raise NotPositiveDefiniteError(
                    f"{embedded.shape[1]} embedded samples (length {length}) cannot give a definite {size}×{size} "
                    "covariance; set shrinkage > 0, or lower order or lag"
                )
            embedded = embedded - embedded.mean(axis=1, keepdims=True)
            result[indices] = embedded.transpose(0, 2, 1) @ embedded / embedded.shape[1]
        traces = np.trace(result, axis1=1, axis2=2)[:, None, None]
        return (1 - self.shrinkage) * result + self.shrinkage * traces / size * np.eye(size)


def autoregression(
    augmented: Float[np.ndarray, "n n"], channels: int
) -> tuple[Float[np.ndarray, "steps channels channels"], Float[np.ndarray, "channels channels"]]:
    """The autoregressive model that an augmented covariance of order p holds: its Yule–Walker solution.

    x(t) = Σₖ Aₖ x(t − kτ) + e(t), k = 1 … p − 1: with the first block row [Γ₀ | r] and the rest R,
    [A₁ … A_{p−1}] = r R⁻¹ and cov(e) = Γ₀ − r R⁻¹ rᵀ.

    Returns:
        the coefficients (p − 1, channels, channels) and the innovations' covariance.
    """
    if augmented.shape[0] % channels or augmented.shape[0] == channels:
        raise ValueError(
            f"a {augmented.shape[0]}×{augmented.shape[0]} matrix is not order × {channels} channels with order ≥ 2"
        )
    row, rest = augmented[:channels, channels:], augmented[channels:, channels:]
    joined = np.linalg.solve(rest, row.T).T
    coefficients = joined.reshape(channels, -1, channels).transpose(1, 0, 2)
    return coefficients, augmented[:channels, :channels] - joined @ row.T


class AugmentedCovarianceClassifier(ClassifierMixin, BaseEstimator):
    """Classifies series (n, length, channels), or ragged lists of them, by their augmented covariances.

    Args:
        order, lag, shrinkage: of `AugmentedCovariance`; order and lag are used where embedding is "fixed".
        embedding: "fixed"; "grid" (cross-validation over `orders` × `lags` on the training set);
            "dynamical" (`select_embedding` on the training set).
        classifier: "logistic" or "svm" (RBF) on scaled tangent vectors, or "mdm", the nearest class mean.
        metric: of the tangent space and the means.
        orders, lags: the grid; for "dynamical", their largest values bound the search.
        folds: of the grid's cross-validation.
        random_state: of its shuffling.

    Attributes:
        order_, lag_: what was used.
        pipeline_: the fitted pipeline.
        classes_: the labels.

    Raises:
        ValueError: an unknown embedding or classifier, and what `AugmentedCovariance` raises.
    """

    def __init__(
        self,
        order: int = 2,
        lag: int = 2,
        shrinkage: float = 0.05,
        embedding: str = "fixed",
        classifier: str = "logistic",
        metric: str | spd.SPDMetric = "affine-invariant",
        orders: tuple[int, ...] = (1, 2, 3, 4),
        lags: tuple[int, ...] = (1, 2, 3),
        folds: int = 3,
        random_state: int | None = 0,
    ) -> None:
        self.order = order
        self.lag = lag
        self.shrinkage = shrinkage
        self.embedding = embedding
        self.classifier = classifier
        self.metric = metric
        self.orders = orders
        self.lags = lags
        self.folds = folds
        self.random_state = random_state

    def _pipeline(self, order: int, lag: int) -> Pipeline:
        augment = AugmentedCovariance(order, lag, self.shrinkage)
        if self.classifier == "mdm":
            return make_pipeline(augment, MinimumDistanceToMean(self.metric))
        last = SVC() if self.classifier == "svm" else LogisticRegression(max_iter=2000)
        return make_pipeline(augment, TangentSpace(self.metric), StandardScaler(), last)

    def fit(
        self, X: np.ndarray | Sequence[np.ndarray], y: Shaped[np.ndarray, " samples"]
    ) -> AugmentedCovarianceClassifier:
        """Choose the embedding on X, y alone and fit the classifier."""
        if self.classifier not in CLASSIFIERS:
            raise ValueError(f"classifier={self.classifier!r} is not one of {', '.join(CLASSIFIERS)}")
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding={self.embedding!r} is not one of {', '.join(EMBEDDINGS)}")
        series, y = check_series(X), np.asarray(y)
        if len(series) != len(y):
            raise ValueError(f"{len(series)} series but {len(y)} labels")
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"only one class, {self.classes_[0]!r}; a classifier needs two")
        self.n_channels_ = series[0].shape[1]
        if self.embedding == "grid":
            self.pipeline_ = self._search(series, y)
        else:
            order, lag = self.order, self.lag
            if self.embedding == "dynamical":
                order, lag = select_embedding(series, max_order=max(self.orders), max_lag=max(self.lags))
            self.pipeline_ = self._pipeline(order, lag).fit(series, y)
        self.order_, self.lag_ = self.pipeline_[0].order, self.pipeline_[0].lag
        return self

    def _search(self, series: list[np.ndarray], y: np.ndarray) -> Pipeline:
        shortest = min(map(len, series))
        # order 1 has no lag, so it stands once in the grid; an embedding longer than a series is left out
        grid = [(p, lag) for p in self.orders for lag in (self.lags if p > 1 else self.lags[:1])]
        grid = [(p, lag) for p, lag in grid if (p - 1) * lag < shortest - 1]
        if not grid:
            raise ValueError(f"no embedding of orders={self.orders}, lags={self.lags} fits series of length {shortest}")
        parameters = [{"augmentedcovariance__order": [p], "augmentedcovariance__lag": [lag]} for p, lag in grid]
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state)
        search = GridSearchCV(self._pipeline(1, 1), parameters, cv=folds, error_score="raise").fit(series, y)
        self.cv_results_ = search.cv_results_
        return search.best_estimator_

    def predict(self, X: np.ndarray | Sequence[np.ndarray]) -> Shaped[np.ndarray, " samples"]:
        """The label of each series."""
        check_is_fitted(self)
        return self.pipeline_.predict(check_series(X))

    @available_if(lambda self: self.classifier == "logistic")
    def predict_proba(self, X: np.ndarray | Sequence[np.ndarray]) -> Float[np.ndarray, "samples classes"]:
        """Class probabilities, in the order of `classes_`; the logistic classifier alone has them."""
        check_is_fitted(self)
        return self.pipeline_.predict_proba(check_series(X))
