import numpy as np
import pytest

from gramian.data.synthetic import var


def test_the_closed_form_error_is_that_of_the_optimal_forecast():
    process = var.neighbours(4)
    x = process.sample(40_000, np.random.default_rng(0))
    starts = np.arange(10, 39_900, 7)
    past = np.stack([x[s - 5 : s] for s in starts])
    future = np.stack([x[s : s + 3] for s in starts])
    gap = future - process.forecast(past, 3)
    for step, covariance in enumerate(process.error_covariances(3)):
        assert np.allclose(gap[:, step].T @ gap[:, step] / len(starts), covariance, atol=0.08)
    assert abs((gap**2).mean() / process.bayes_mse(3) - 1) < 0.02


def test_the_variance_is_the_error_of_forecasting_far_ahead():
    process = var.neighbours(3)
    assert np.allclose(process.error_covariances(200)[-1], process.variance(), atol=1e-8)


def test_bad_processes_are_refused():
    with pytest.raises(ValueError, match="not stationary"):
        var.VAR(np.array([[[1.0]]]), np.eye(1))
    with pytest.raises(ValueError, match="do not fit"):
        var.VAR(np.zeros((1, 2, 2)), np.eye(3))
    with pytest.raises(ValueError, match="ring"):
        var.neighbours(1)
    with pytest.raises(ValueError, match="looks 2 steps back"):
        var.neighbours(2).forecast(np.zeros((1, 1, 2)), 1)
    with pytest.raises(ValueError, match="horizon"):
        var.neighbours(2).bayes_mse(0)
