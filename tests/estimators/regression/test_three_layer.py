import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from gramian.estimators.regression.three_layer import LayerwiseThreeLayer, NotGaussianWarning, WeakFeatureWarning


@parametrize_with_checks([LayerwiseThreeLayer(features=10, outer=10)])
def test_it_is_an_estimator(estimator, check):
    check(estimator)


def target(samples, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, dim))
    p = x[:, 0] * x[:, 1]
    return x, p, p + 0.1 * p**2


def test_the_feature_is_the_inner_polynomial_and_the_prediction_a_function_of_it():
    x, p, y = target(4000)
    model = LayerwiseThreeLayer(2).fit(x, y)
    feature = model.feature(x)
    assert np.corrcoef(feature, p)[0, 1] > 0.9
    assert not model.weak_feature_
    assert model.predict(x) == pytest.approx(model.second_.predict(model._outer(feature)))
    new, _, truth = target(2000, seed=1)
    assert np.square(model.predict(new) - truth).mean() < 0.3 * truth.var()


def test_each_stage_has_its_own_half():
    x, _, y = target(400)
    first = LayerwiseThreeLayer(2, random_state=1).fit(x, y)
    y2 = y.copy()
    y2[200:] = np.random.default_rng(3).standard_normal(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = LayerwiseThreeLayer(2, random_state=1).fit(x, y2)
    assert second.first_.coef_ == pytest.approx(first.first_.coef_)
    assert not np.allclose(second.second_.coef_, first.second_.coef_)
    again = clone(first).fit(x, y)
    assert again.predict(x) == pytest.approx(first.predict(x))


def test_it_warns_of_weak_features_and_of_other_inputs():
    x, _, _ = target(1000)
    with pytest.warns(WeakFeatureWarning, match="degree 2"):
        model = LayerwiseThreeLayer(2).fit(x, x[:, 0])
    assert model.weak_feature_
    with pytest.warns(NotGaussianWarning):
        LayerwiseThreeLayer(1).fit(3 * x, x[:, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"degree": 0}, "degree"), ({"outer": 0}, "outer"), ({"features": 0}, "features"), ({"alpha": 0.0}, "alpha")],
)
def test_what_cannot_be_is_refused(options, message):
    x, _, y = target(40)
    with pytest.raises(ValueError, match=message):
        LayerwiseThreeLayer(**options).fit(x, y)
