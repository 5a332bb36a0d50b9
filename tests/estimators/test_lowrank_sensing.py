import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from gramian.estimators.lowrank_sensing import LowRankSensing, NotRecovered


def problem(rows=10, columns=7, rank=2, count=200, symmetric=False, scale=1.0):
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, rank))
    truth = left @ (left if symmetric else rng.standard_normal((columns, rank))).T
    A = scale * rng.standard_normal((count, *truth.shape))
    return A, np.einsum("mij,ij->m", A, truth), truth


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_recovers_at_any_scale_of_the_operators(scale):
    A, y, truth = problem(scale=scale)
    model = LowRankSensing(rank=3).fit(A, y)
    np.testing.assert_allclose(model.matrix_, truth, atol=1e-3 * np.abs(truth).max())
    np.testing.assert_allclose(model.predict(A[:5]), y[:5], rtol=0, atol=1e-2 * np.abs(y).max())


def test_other_methods_and_the_contract():
    A, y, truth = problem(8, 8, 2, 200, symmetric=True)
    model = LowRankSensing(rank=2, method="symmetric")
    twin = clone(model).fit(A, y)
    np.testing.assert_array_equal(twin.matrix_, model.fit(A, y).matrix_)
    np.testing.assert_allclose(model.matrix_, truth, atol=1e-3 * np.abs(truth).max())
    with pytest.warns(NotRecovered, match="max_iter"):
        LowRankSensing(rank=2, method="asymmetric", max_iter=20).fit(A, y)
    with pytest.raises(NotFittedError):
        clone(model).predict(A)


def test_bad_input_is_refused():
    A, y, _ = problem(count=50)
    for settings, message in (
        ({"method": "svd"}, "method="), ({"rank": 0}, "rank="), ({"rank": 8}, "rank="),
        ({"method": "symmetric"}, "square"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            LowRankSensing(**settings).fit(A, y)
    with pytest.raises(ValueError, match="zero"):
        LowRankSensing().fit(A, 0 * y)
    with pytest.raises(ValueError, match="operators"):
        LowRankSensing().fit(A[0], y)
    with pytest.raises(ValueError, match="operators"):
        LowRankSensing(rank=2, max_iter=2000).fit(A, y).predict(A[:, :3])
