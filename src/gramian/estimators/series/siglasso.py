r"""SigLasso: a target that a path controls, regressed on the path's signature."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted

from gramian.linalg.signal import signature

__all__ = ["NotConverged", "SigLasso"]


class NotConverged(UserWarning):
    """The Lasso's coordinate descent stopped early for some penalties."""


def _checked(points: Sequence[Any], times: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    if len(points) != len(times) or not len(points):
        raise ValueError(f"{len(points)} paths and {len(times)} lists of times: give as many of both, at least one")
    paths = [np.asarray(x, np.float64) for x in points]
    when = [np.asarray(t, np.float64) for t in times]
    for index, (x, t) in enumerate(zip(paths, when, strict=True)):
        if x.ndim != 2 or t.shape != (len(x),) or x.shape[1] != paths[0].shape[-1]:
            raise ValueError(
                f"path {index} has shape {x.shape} and times {t.shape}; expected (points, {paths[0].shape[-1]}) and "
                "(points,)"
            )
        if len(x) < 2:
            raise ValueError(f"path {index} is a single point; a path needs at least two")
        if not (np.isfinite(x).all() and np.isfinite(t).all()):
            raise ValueError(f"path {index} holds NaN or infinity; leave out those points: the grid may be irregular")
        if (np.diff(t) <= 0).any():
            raise ValueError(f"the times of path {index} do not increase; sort its points, and keep one for each time")
    return paths, when


class SigLasso(RegressorMixin, BaseEstimator):
    r"""The solution of a controlled differential equation as a sparse linear function of signatures.

    For \(y_t = y_0 + \int_0^t G(y)\,dx\) the Lasso finds \(y_t \approx c + \langle\theta, S_N(x_{[0, t]})\rangle\),
    where x is what was observed, joined by straight lines, with time as a channel. A target may be observed at few
    times, others than the path's; it is predicted at all times from the path before.

    Args:
        depth: N.
        weighted: multiply the integrals of level k by k!, so that the penalty does not favour low levels.
        standardize: scale every integral to variance 1 over the training observations.
        folds: of individuals, for the choice of the penalty.
        penalties: how many are tried.
        max_iter: rounds of coordinate descent.

    Attributes:
        coefficients_, intercept_: θ of shape (features,) in units of the plain integrals of the scaled path, and c.
        scale_: mean total variation of the training paths, by which paths and times are divided.
        penalty_: the Lasso's chosen penalty.

    Raises:
        ValueError: in `fit`, times that do not increase, a path of a single point, NaN, a target outside its path's
            times, too few individuals for the folds.

    Source: Bleistein, Fermanian, Jannot and Guilloux (2023), section 3.
    """

    def __init__(self, depth=3, weighted=False, standardize=True, folds=5, penalties=50, max_iter=5000) -> None:
        self.depth = depth
        self.weighted = weighted
        self.standardize = standardize
        self.folds = folds
        self.penalties = penalties
        self.max_iter = max_iter

    def fit(self, paths: Sequence[Any], times: Sequence[Any], y: Sequence[Any], y_times: Sequence[Any]) -> SigLasso:
        """Fit to individuals.

        Args:
            paths, times: (points, channels) and (points,) of each individual.
            y, y_times: targets and their times, (observations,) of each individual.
        """
        points, when = _checked(paths, times)
        targets = [np.asarray(v, np.float64) for v in y]
        at = [np.asarray(t, np.float64) for t in y_times]
        if [v.shape for v in targets] != [t.shape for t in at] or len(targets) != len(points):
            raise ValueError("y and y_times need as many entries for every individual, and one list for each path")
        if not all(np.isfinite(v).all() for v in targets):
            raise ValueError("y holds NaN or infinity; leave out those observations and their times")
        if len(points) < self.folds:
            raise ValueError(f"{len(points)} individuals do not fill folds={self.folds}; lower folds=")
        self.channels_ = points[0].shape[1]
        self.scale_ = float(np.mean([self._variation(x, t) for x, t in zip(points, when, strict=True)]))
        features = self._features(points, when, at)
        rows, target = np.concatenate(features), np.concatenate(targets)
        person = np.repeat(np.arange(len(points)), [len(t) for t in at])
        factor = self._level_factors()
        spread = (rows * factor).std(0) if self.standardize else np.ones(rows.shape[1])
        factor = np.where(spread > 0, factor / np.where(spread > 0, spread, 1.0), 0.0)
        splits = list(GroupKFold(self.folds).split(rows, target, person))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lasso = LassoCV(alphas=self.penalties, eps=1e-5, cv=splits, max_iter=self.max_iter, tol=1e-4)
            lasso.fit(rows * factor, target)
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            warnings.warn(
                f"the Lasso did not settle in max_iter={self.max_iter} rounds for some penalties; raise it",
                NotConverged,
                stacklevel=2,
            )
        self.coefficients_ = lasso.coef_ * factor
        self.intercept_ = float(lasso.intercept_)
        self.penalty_ = float(lasso.alpha_)
        return self

    def _variation(self, x: np.ndarray, t: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(np.column_stack([t, x]), axis=0), axis=1).sum())

    def _level_factors(self) -> np.ndarray:
        sizes = signature.level_sizes(self.channels_ + 1, self.depth)
        return np.repeat([math.factorial(k) if self.weighted else 1.0 for k in range(1, len(sizes) + 1)], sizes)

    def _features(self, points: list[np.ndarray], when: list[np.ndarray], at: list[np.ndarray]) -> list[np.ndarray]:
        """Signatures of each path up to each of the times, (observations, features)."""
        grids, places = [], []
        for index, (x, t, wanted) in enumerate(zip(points, when, at, strict=True)):
            if len(wanted) and (wanted.min() < t[0] or wanted.max() > t[-1] or np.isnan(wanted).any()):
                raise ValueError(f"a target of individual {index} lies outside its path's times {t[0]} … {t[-1]}")
            merged = np.union1d(t, wanted)
            rows = np.column_stack([merged] + [np.interp(merged, t, channel) for channel in x.T])
            grids.append(rows / self.scale_)
            places.append(np.searchsorted(merged, wanted))
        longest = max(map(len, grids))
        # a path that rests at its end keeps its signature: so paths of all lengths are one batch
        batch = np.stack([np.concatenate([g, np.repeat(g[-1:], longest - len(g), 0)]) for g in grids])
        found = signature.signature(torch.from_numpy(batch), self.depth, stream=True).numpy()
        found = np.concatenate([np.zeros_like(found[:, :1]), found], 1)  # nothing has happened at the first time
        return [f[place] for f, place in zip(found, places, strict=True)]

    def predict_trajectory(
        self, paths: Sequence[Any], times: Sequence[Any], y_times: Sequence[Any]
    ) -> list[Float[np.ndarray, " observations"]]:
        """The target of each individual at the times asked for."""
        check_is_fitted(self, "coefficients_")
        points, when = _checked(paths, times)
        if points[0].shape[1] != self.channels_:
            raise ValueError(f"the paths have {points[0].shape[1]} channels; this was fitted to {self.channels_}")
        found = self._features(points, when, [np.asarray(t, np.float64) for t in y_times])
        return [f @ self.coefficients_ + self.intercept_ for f in found]

    def predict(self, paths: Sequence[Any], times: Sequence[Any]) -> Float[np.ndarray, " individuals"]:
        """The target at the end of each path."""
        return np.concatenate(self.predict_trajectory(paths, times, [np.asarray(t)[-1:] for t in times]))
