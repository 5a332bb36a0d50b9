"""Anomaly detection: what is unlike the normal examples that a detector was fitted on?

scikit-learn's conventions of outlier detectors hold: `score_samples` is larger for the more normal, and
`predict` gives 1 for normal and −1 for anomalous.
"""

from gramian.estimators.anomaly.features import LevelFeatures
from gramian.estimators.anomaly.gaussian_ad import GaussianAD, image_detector

__all__ = ["GaussianAD", "LevelFeatures", "image_detector"]
