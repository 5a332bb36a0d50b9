import numpy as np
import pytest
from sklearn.base import clone

from gramian.estimators.series.tscmamba import TSCMambaClassifier


def tones():
    rng = np.random.default_rng(0)
    labels = np.repeat(["slow", "fast"], 12)
    speed = np.where(labels == "slow", 0.2, 1.2)[:, None, None]
    waves = np.sin(speed * np.arange(40)[:, None] + rng.uniform(0, 6, (24, 1, 2)))
    return waves + 0.1 * rng.normal(size=waves.shape), labels


def small(**options):
    return TSCMambaClassifier(**{"kernels": 20, "width": 8, "image": 16, "patch": 4, "epochs": 8} | options)


def test_tones_are_told_apart_and_nothing_depends_on_the_company():
    x, y = tones()
    model = clone(small()).fit(x[::2], y[::2])
    assert model.score(x[1::2], y[1::2]) == 1.0
    alone = model.predict_proba(x[1:2])
    assert np.allclose(model.predict_proba(np.concatenate((x[1:2], 100 * x)))[:1], alone, atol=1e-6)
    assert np.allclose(clone(model).fit(x[::2], y[::2]).predict_proba(x[1:2]), alone)


def test_bad_input_is_refused():
    x, y = tones()
    with pytest.raises(ValueError, match="one class only"):
        small().fit(x[:12], y[:12])
    with pytest.raises(ValueError, match="unequal lengths"):
        small().fit([x[0], x[1][:30]], y[[0, 12]])
    with pytest.raises(ValueError, match="does not divide"):
        small(patch=5).fit(x, y)
    with pytest.raises(ValueError, match="NaN"):
        small().fit(x * np.nan, y)
