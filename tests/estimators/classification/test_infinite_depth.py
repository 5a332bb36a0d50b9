import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import check_estimator

from gramian.analysis.kernels import infinite_width
from gramian.estimators.classification import infinite_depth


def sphere(samples=60, dim=3, seed=0):
    x = np.abs(np.random.default_rng(seed).standard_normal((samples, dim)))
    return x / np.linalg.norm(x, axis=1, keepdims=True), np.arange(samples) % 3


def test_the_hilbert_classifier_follows_the_conventions():
    check_estimator(infinite_depth.HilbertKernelClassifier())


def test_hilbert_votes_are_their_formula():
    x, y = sphere()
    queries, _ = sphere(9, seed=1)
    found = infinite_depth.HilbertKernelClassifier(1.5).fit(x, y).predict_proba(queries)
    weights = np.linalg.norm(queries[:, None] - x, axis=2) ** -1.5
    expected = np.stack([weights[:, y == k].sum(1) for k in range(3)], 1)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), rtol=1e-9)
    assert (infinite_depth.HilbertKernelClassifier(1.5).fit(x, y).predict(x) == y).all()


def test_squares_copy_the_nearest_neighbour():
    x, y = sphere()
    queries, _ = sphere(40, seed=1)
    dual = infinite_width.HermiteDual((0.0, 0.0, 1.0))
    found = infinite_depth.InfiniteDepthClassifier(dual, depth=25).fit(x, y).predict(queries)
    np.testing.assert_array_equal(found, KNeighborsClassifier(1).fit(x, y).predict(queries))


def test_contract_of_the_deep_classifier():
    x, y = sphere()
    model = infinite_depth.InfiniteDepthClassifier(depth=20, kind="ntk")
    assert clone(model).get_params()["depth"] == 20
    first = model.fit(x, np.array(["a", "b", "c"])[y]).predict(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), first)
    assert set(first) <= {"a", "b", "c"}


def test_what_cannot_be_is_refused():
    x, y = sphere()
    for alpha in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="alpha"):
            infinite_depth.HilbertKernelClassifier(alpha).fit(x, y)
    model = infinite_depth.InfiniteDepthClassifier(depth=3)
    with pytest.raises(ValueError, match="unit sphere"):
        model.fit(2 * x, y)
    with pytest.raises(ValueError, match="no negative"):
        model.fit(-x, y)
    with pytest.raises(ValueError, match="unit sphere"):
        model.fit(x, y).predict(3 * x)
