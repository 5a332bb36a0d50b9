import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils.estimator_checks import check_estimator

from gramian.estimators.regression import random_features


def sets(samples=60, keys=4, features=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, 1 + keys, features))
    return x, np.square(x[:, 1:, 0]).mean(1)


def test_random_feature_ridge_follows_the_conventions():
    check_estimator(random_features.RandomFeatureRidge(50))


@pytest.mark.parametrize("heads", [3, 40])
def test_both_ways_to_solve_agree_with_kernel_ridge(heads):
    x, y = sets()
    model = random_features.RFAttentionRegressor(heads, alpha=0.3).fit(x, y)
    features = model._features(x)
    oracle = KernelRidge(alpha=0.3, kernel="precomputed").fit(features @ features.T, y)
    np.testing.assert_allclose(model.predict(x), oracle.predict(features @ features.T), rtol=1e-8, atol=1e-9)


def test_contract_of_the_attention_regressor():
    x, y = sets()
    model = random_features.RFAttentionRegressor(20, mean=1.0, random_state=3)
    assert clone(model).get_params() == model.get_params()
    first = model.fit(x, y).predict(x)
    np.testing.assert_array_equal(clone(model).fit(x, y).predict(x), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), first)
    np.testing.assert_allclose(model.predict(x[:, [0, 4, 3, 2, 1]]), first, rtol=1e-9)
    assert np.abs(clone(model).set_params(random_state=4).fit(x, y).predict(x) - first).max() > 1e-6
    both = clone(model).fit(x, np.stack((y, 2 * y), 1)).predict(x)
    assert both.shape == (60, 2)
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0], rtol=1e-6)
    other, _ = sets(5, keys=9)
    assert model.predict(other).shape == (5,)  # as many keys as one likes


def test_what_cannot_be_is_refused():
    x, y = sets()
    model = random_features.RFAttentionRegressor(5)
    with pytest.raises(ValueError, match="at least one key"):
        model.fit(x[:, :1], y)
    with pytest.raises(ValueError, match="1 \\+ keys"):
        model.fit(x[:, 0], y)
    with pytest.raises(ValueError, match="do not fit"):
        model.fit(x, y[:-1])
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.where(np.arange(60)[:, None, None] == 3, np.nan, x), y)
    with pytest.raises(ValueError, match="alpha"):
        random_features.RFAttentionRegressor(5, alpha=0.0).fit(x, y)
    with pytest.raises(ValueError, match="alpha"):
        random_features.RandomFeatureRidge(5, alpha="best").fit(x[:, 0], y)
    with pytest.raises(ValueError, match="at least 1"):
        random_features.RandomFeatureRidge(0).fit(x[:, 0], y)
    with pytest.raises(ValueError, match="those of the fit"):
        model.fit(x, y).predict(x[:, :, :2])
