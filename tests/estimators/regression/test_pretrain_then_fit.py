import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.estimator_checks import check_estimator

from gramian.estimators.regression import pretrain_then_fit as pretrain


def factor_data(samples=300, features=6, rank=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, rank)) @ rng.standard_normal((rank, features)) + 0.5 * rng.standard_normal(
        (samples, features)
    )


def test_the_factor_model_follows_the_conventions():
    check_estimator(pretrain.FactorModel(1))


def test_the_fit_has_the_largest_likelihood_around():
    x = factor_data()
    model = pretrain.FactorModel(2).fit(x)
    best = model.score(x)
    rng = np.random.default_rng(1)
    for _ in range(20):
        other = pickle.loads(pickle.dumps(model))
        other.loadings_ = other.loadings_ + 0.05 * rng.standard_normal(other.loadings_.shape)
        other.noise_ *= float(np.exp(0.05 * rng.standard_normal()))
        assert other.score(x) < best


def test_posterior_means_are_the_gaussian_regression():
    x = factor_data()
    model = pretrain.FactorModel(2).fit(x)
    expected = (x - x.mean(0)) @ np.linalg.solve(model.covariance_, model.loadings_)
    np.testing.assert_allclose(model.transform(x), expected, rtol=1e-9, atol=1e-12)


def test_contract_of_the_whole():
    x = factor_data()
    y = x[:, 0]
    model = pretrain.PretrainThenFit(pretrain.FactorModel(2), Ridge(0.1))
    assert clone(model).head.alpha == 0.1
    first = model.fit(x[:40], y[:40], unlabeled=x).predict(x)
    np.testing.assert_array_equal(clone(model).fit(x[:40], y[:40], unlabeled=x).predict(x), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), first)
    assert not hasattr(model.latent, "loadings_")  # parts that were given stay as they were
    alone = clone(model).fit(x[:40], y[:40])
    np.testing.assert_array_equal(alone.latent_.loadings_, pretrain.FactorModel(2).fit(x[:40]).loadings_)


def test_a_mixture_becomes_its_posterior():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = 8 * np.eye(4)[labels] + rng.standard_normal((90, 4))
    model = pretrain.PretrainThenFit(pretrain.MixtureModel(3), LogisticRegression(C=100.0))
    model.fit(x[:3], labels[:3], unlabeled=x)
    assert (model.predict(x) == labels).all()
    np.testing.assert_allclose(model.latent_.transform(x).sum(1), 1)


def test_the_ratio_is_zero_for_a_model_that_keeps_all_that_matters():
    x = factor_data(5000)
    model = pretrain.FactorModel(2).fit(x)
    covariance = model.covariance_ + 0.01 * np.eye(6)
    inside = pretrain.informative_ratio(model, covariance, model.loadings_ @ np.array([1.0, -1.0]))
    rng = np.random.default_rng(2)
    assert inside < 1e-4
    assert pretrain.informative_ratio(model, covariance, rng.standard_normal(6)) > 1
    with pytest.raises(ValueError, match="nothing to lose"):
        pretrain.informative_ratio(model, covariance, np.zeros(6))


def test_what_cannot_be_is_refused():
    x = factor_data()
    for rank in (0, 6):
        with pytest.raises(ValueError, match="must lie in 1 … 5"):
            pretrain.FactorModel(rank).fit(x)
    with pytest.raises(ValueError, match="do not show 3 factors"):
        pretrain.FactorModel(3).fit(x[:3])
    with pytest.raises(ValueError, match="lower rank"):
        pretrain.FactorModel(2).fit(np.outer(np.arange(9.0), np.ones(4)))
    with pytest.raises(ValueError, match="6 features of X"):
        pretrain.PretrainThenFit().fit(x[:9], x[:9, 0], unlabeled=x[:, :5])
    with pytest.raises(ValueError, match="do not fit"):
        pretrain.PretrainThenFit().fit(x[:9], x[:8, 0])
    with pytest.raises(ValueError, match="minimum of 1"):
        pretrain.PretrainThenFit().fit(x[:0], x[:0, 0])
