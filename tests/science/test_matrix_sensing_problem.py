import numpy as np
import pytest

from gramian.linalg.factor.sensing import Diverging
from gramian.science.matrix_sensing import MatrixSensing, low_rank


def rng(k=0):
    return np.random.default_rng(k)


def test_truth_has_the_singular_values():
    m = low_rank(8, 5, (2.0, 0.5), rng())
    np.testing.assert_allclose(np.linalg.svd(m)[1][:3], [2.0, 0.5, 0.0], atol=1e-12)
    s = low_rank(6, 6, (1.0,), rng(), symmetric=True)
    np.testing.assert_allclose(s, s.T)
    assert MatrixSensing(m).rank == 2


def test_both_forms_recover_and_measurements_do_too():
    s = low_rank(10, 10, (1.0, 0.7), rng(), symmetric=True)
    assert MatrixSensing(s).gd("sym", 2, 0.1, 0.1, 800, rng(1)).error[-1] < 1e-18
    measured = MatrixSensing.gaussian(low_rank(10, 8, (1.0,), rng(2)), 120, rng(3))
    course = measured.gd("asym", 2, 0.1, 0.1, 1500, rng(4), rebalance_at=300)
    assert course.error[-1] < 1e-12


def test_bad_input_is_refused():
    s = low_rank(6, 6, (1.0, 0.7), rng(), symmetric=True)
    problem = MatrixSensing(s)
    with pytest.raises(ValueError, match="at least as many"):
        problem.gd("sym", 1, 0.1, 0.1, 5, rng())
    with pytest.raises(ValueError, match="smaller side"):
        problem.gd("sym", 7, 0.1, 0.1, 5, rng())
    with pytest.raises(ValueError, match="positive"):
        problem.gd("sym", 2, 0.0, 0.1, 5, rng())
    with pytest.raises(Diverging):
        problem.gd("sym", 2, 1.0, 3.0, 300, rng())
    with pytest.raises(ValueError, match="semidefinite"):
        MatrixSensing(-s).gd("sym", 2, 0.1, 0.1, 5, rng())
    with pytest.raises(ValueError, match="semidefinite"):
        MatrixSensing(low_rank(6, 6, (1.0,), rng())).gd("sym", 2, 0.1, 0.1, 5, rng())
    with pytest.raises(ValueError, match="zero"):
        MatrixSensing(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="do not measure"):
        MatrixSensing(s, np.zeros((4, 3, 3)))
    with pytest.raises(ValueError, match="do not fit"):
        low_rank(3, 3, (1.0,) * 4, rng())
    with pytest.raises(ValueError, match="square"):
        low_rank(3, 4, (1.0,), rng(), symmetric=True)
