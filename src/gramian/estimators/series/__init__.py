"""Estimators on series: X is an array (n, length, channels), or a list of (length, channels) arrays."""

from gramian.estimators.series.augmented_covariance import (
    AugmentedCovariance,
    AugmentedCovarianceClassifier,
    autoregression,
)
from gramian.estimators.series.state_space import StateSpaceClassifier

__all__ = ["AugmentedCovariance", "AugmentedCovarianceClassifier", "StateSpaceClassifier", "autoregression"]
