import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gramian.linalg.factor.sensing import (
    Diverging,
    TooFewMeasurements,
    degrees_of_freedom,
    descend,
    measurement_residual,
    rebalance_step,
)  # fmt: skip


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.integers(1, 6), st.integers(0, 5), st.integers(1, 8), st.floats(0.1, 10), st.integers(0, 99))
def test_rebalancing_keeps_the_product(k, more, columns, beta, seed):
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((k + more, k)), rng.standard_normal((columns, k))
    f, g = rebalance_step(left, right, beta)
    np.testing.assert_allclose(f @ g.T, left @ right.T, atol=1e-11)
    np.testing.assert_allclose(f.T @ f, beta**2 * np.eye(k), atol=1e-10 * beta**2)


def test_residual_is_the_gradient():
    rng = np.random.default_rng(0)
    A, y, p = rng.standard_normal((40, 4, 3)), rng.standard_normal(40), rng.standard_normal((4, 3))
    e = measurement_residual(A, y, 1)(p)

    def loss(q):
        return 0.5 * np.mean((np.einsum("mij,ij->m", A, q) - y) ** 2)

    for i, j in ((0, 0), (3, 2)):
        d = np.zeros_like(p)
        d[i, j] = 1e-5
        assert abs((loss(p + d) - loss(p - d)) / 2e-5 - e[i, j]) < 1e-8


def test_one_step_by_hand_and_records():
    rng = np.random.default_rng(1)
    m, f, g = rng.standard_normal((5, 4)), rng.standard_normal((5, 2)), rng.standard_normal((4, 2))
    run = descend(lambda p: p - m, f, g, 0.01, 1)
    e = f @ g.T - m
    np.testing.assert_allclose(run.left, f - 0.01 * e @ g)
    np.testing.assert_allclose(run.right, g - 0.01 * e.T @ f)
    assert run.steps == [0, 1]
    assert run.at(0) == pytest.approx(np.square(e).sum())
    symmetric = descend(lambda p: p - np.eye(5), f, None, 0.01, 7, every=3)
    assert symmetric.steps == [0, 3, 6, 7]
    np.testing.assert_allclose(symmetric.matrix, symmetric.matrix.T)
    stopped = descend(lambda p: p - np.eye(5), 0.1 * rng.standard_normal((5, 5)), None, 0.1, 9999, every=10,
                      tolerance=1e-8)  # fmt: skip
    assert stopped.error[-1] <= 1e-8
    assert stopped.steps[-1] < 2000
    assert stopped.log_slope(stopped.steps[-3], stopped.steps[-1]) > 0


def test_bad_input_is_refused():
    rng = np.random.default_rng(2)
    m, f = np.eye(5), rng.standard_normal((5, 2))
    with pytest.raises(Diverging, match="lower lr"):
        descend(lambda p: p - m, f, None, 1.0, 500)
    for settings in ({"lr": 0.0, "steps": 3}, {"lr": 0.1, "steps": 0}, {"lr": 0.1, "steps": 3, "rebalance_at": 1}):
        with pytest.raises(ValueError, match=r"lr=|steps=|rebalanced"):
            descend(lambda p: p - m, f, None, **settings)
    with pytest.raises(ValueError, match="beta"):
        rebalance_step(f, f, 0)
    with pytest.raises(ValueError, match="columns"):
        rebalance_step(f, f[:, :1])
    with pytest.warns(TooFewMeasurements, match="degrees of freedom"):
        measurement_residual(rng.standard_normal((5, 4, 4)), np.zeros(5), 2)
    with pytest.raises(ValueError, match="NaN"):
        measurement_residual(np.full((9, 2, 2), np.nan), np.zeros(9), 1)
    assert degrees_of_freedom(20, 20, 2) == 76
