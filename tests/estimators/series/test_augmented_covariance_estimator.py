"""Augmented covariance: shapes, ragged input, oracles and bad input."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from gramian.data.synthetic import dynamics
from gramian.estimators.series import augmented_covariance as acm
from gramian.estimators.series.embedding import delay_embedding, select_embedding
from gramian.estimators.spd import MinimumDistanceToMean, TangentSpace
from gramian.linalg.manifold.spd_functions import NotPositiveDefiniteError


@pytest.fixture(scope="module")
def twins():
    rng = np.random.default_rng(0)
    halves = [
        dynamics.vector_autoregression(np.stack((np.zeros((2, 2)), sign * 0.4 * np.eye(2))), 120, rng, count=30)
        for sign in (1, -1)
    ]
    return np.concatenate(halves), np.repeat(["a", "b"], 30)


def test_each_block_is_a_lag_covariance(twins):
    x = twins[0][:4]
    matrices = acm.AugmentedCovariance(order=3, lag=2).fit_transform(x)
    embedded = np.stack([np.concatenate([one[4:], one[2:-2], one[:-4]], axis=1) for one in x])
    np.testing.assert_allclose(matrices, [np.cov(e.T, ddof=0) for e in embedded], atol=1e-12)
    np.testing.assert_allclose(delay_embedding(x, 3, 2), embedded)


def test_ragged_series_are_treated_one_by_one(twins):
    ragged = [twins[0][0], twins[0][1][:50], twins[0][2][:80], twins[0][3][:50]]
    transformer = acm.AugmentedCovariance(order=2, lag=1, shrinkage=0.1).fit(ragged)
    together = transformer.transform(ragged)
    for one, matrix in zip(ragged, together):
        np.testing.assert_allclose(transformer.transform(one[None])[0], matrix)
    assert np.linalg.eigvalsh(together).min() > 0
    np.testing.assert_allclose(
        np.trace(together, axis1=1, axis2=2),
        np.trace(acm.AugmentedCovariance(2, 1).fit(ragged).transform(ragged), axis1=1, axis2=2),
    )


@pytest.mark.parametrize("classifier", acm.CLASSIFIERS)
@pytest.mark.parametrize("embedding", acm.EMBEDDINGS)
def test_the_classifier_keeps_the_contract_of_estimators(twins, classifier, embedding):
    x, y = twins
    model = acm.AugmentedCovarianceClassifier(
        embedding=embedding, classifier=classifier, orders=(1, 2), lags=(1, 2), shrinkage=0.0
    )
    first = clone(model).fit(x[::2], y[::2])
    again = clone(model).fit(x[::2], y[::2])
    assert (first.predict(x) == again.predict(x)).all()
    assert (pickle.loads(pickle.dumps(first)).predict(x) == first.predict(x)).all()
    assert (first.predict(list(x)) == first.predict(x)).all()
    assert first.score(x[::2], y[::2]) == np.mean(first.predict(x[::2]) == y[::2])
    if embedding != "dynamical":
        assert first.order_ == 2
        assert first.lag_ == 2
        assert first.score(x[1::2], y[1::2]) > 0.9
    refit = first.fit(x[1::2], y[1::2])
    assert refit is first


def test_the_search_reads_the_training_set_only(twins):
    x, y = twins
    scores = cross_val_score(
        acm.AugmentedCovarianceClassifier(embedding="grid", orders=(1, 2), lags=(1, 2)), x, y, cv=3
    )
    assert scores.mean() > 0.9
    shuffled = np.random.default_rng(1).permutation(y)
    chance = cross_val_score(
        acm.AugmentedCovarianceClassifier(embedding="grid", orders=(1, 2), lags=(1, 2)), x, shuffled, cv=3
    )
    assert 0.25 < chance.mean() < 0.75


def test_yule_walker_residuals_are_innovations():
    truth = np.array([[[0.7]], [[-0.2]]])
    x = dynamics.vector_autoregression(truth, 40_000, np.random.default_rng(3), noise=np.array([[4.0]]))
    coefficients, residual = acm.autoregression(acm.AugmentedCovariance(3, 1).fit_transform(x)[0], 1)
    np.testing.assert_allclose(coefficients, truth, atol=0.02)
    np.testing.assert_allclose(residual, [[4.0]], rtol=0.03)


def test_the_rules_on_systems_of_known_dimension():
    henon = [dynamics.henon_map(2000)]
    assert select_embedding(henon, lag_rule="autocorrelation") == (2, 1)
    assert select_embedding(henon, lag_rule="autocorrelation", order_rule="cao") == (2, 1)
    quarter = np.sin(2 * np.pi * np.arange(1000) / 40)[:, None]
    assert select_embedding([quarter], lag_rule="autocorrelation", max_lag=30).lag in (10, 11)


def test_tangent_space_at_the_mean_is_centred_and_the_nearest_mean_classifies():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((40, 30, 3))
    X = a.transpose(0, 2, 1) @ a / 30
    X[20:] *= 3
    y = np.repeat([0, 1], 20)
    for metric in ("affine-invariant", "log-euclidean", "bures-wasserstein"):
        vectors = TangentSpace(metric).fit_transform(X)
        assert np.abs(vectors.mean(axis=0)).max() < 1e-7
        assert MinimumDistanceToMean(metric).fit(X, y).score(X, y) > 0.9


def test_bad_input_raises(twins):
    x, y = twins
    with pytest.raises(ValueError, match="reach back"):
        acm.AugmentedCovariance(order=5, lag=30).fit(x).transform(x)
    with pytest.raises(NotPositiveDefiniteError, match="shrinkage"):
        acm.AugmentedCovariance(order=4).fit(x[:, :8]).transform(x[:, :8])
    broken = x.copy()
    broken[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="series 3 holds NaN"):
        acm.AugmentedCovariance().fit(broken)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        acm.AugmentedCovariance(shrinkage=2.0).fit(x).transform(x)
    with pytest.raises(ValueError, match="channels"):
        acm.AugmentedCovariance().fit(x).transform(x[:, :, :1])
    with pytest.raises(ValueError, match="shape"):
        acm.AugmentedCovariance().fit(x[0])
    with pytest.raises(ValueError, match="one class"):
        acm.AugmentedCovarianceClassifier().fit(x[:5], y[:5])
    with pytest.raises(ValueError, match="not one of"):
        acm.AugmentedCovarianceClassifier(classifier="knn").fit(x, y)
    with pytest.raises(ValueError, match="labels"):
        acm.AugmentedCovarianceClassifier().fit(x, y[:-1])
    with pytest.raises(ValueError, match="too short"):
        select_embedding([x[0, :3]])
    with pytest.raises(ValueError, match="lag_rule"):
        select_embedding(x, lag_rule="eye")
    with pytest.raises(ValueError, match="explodes"):
        dynamics.vector_autoregression(np.array([[[1.1]]]), 10, np.random.default_rng(0))
