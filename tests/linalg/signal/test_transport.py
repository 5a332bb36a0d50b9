import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gramian.linalg.signal.transport import NotConverged, half_squared_distance, sinkhorn_divergence, transport_cost


def clouds(n=12, m=9, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    return x, y + 1


def by_scaling(x, y, eps, steps=5000):
    """The primal value by Sinkhorn's plain iteration."""
    cost = half_squared_distance(x, y).numpy()
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    kernel = np.exp(-cost / eps) * np.outer(a, b)
    u, v = np.ones(len(x)), np.ones(len(y))
    for _ in range(steps):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return float((plan * cost).sum() + eps * (plan * np.log(plan / np.outer(a, b))).sum())


@pytest.mark.parametrize("eps", [0.5, 2.0])
def test_the_cost_is_that_of_the_plain_iteration(eps):
    x, y = clouds()
    assert float(transport_cost(x, y, eps)) == pytest.approx(by_scaling(x, y, eps), rel=1e-5)


def test_limits_of_the_divergence():
    x, y = clouds(10, 10)
    mean_gap = 0.5 * (x.mean(0) - y.mean(0)).square().sum()
    assert float(sinkhorn_divergence(x, y, 1e4)) == pytest.approx(float(mean_gap), rel=1e-3)
    cost = half_squared_distance(x, y).numpy()
    exact = cost[linear_sum_assignment(cost)].mean()
    assert float(sinkhorn_divergence(x, y, 1e-3, iterations=5000)) == pytest.approx(exact, rel=0.02)


def test_it_is_a_divergence():
    x, y = clouds()
    assert abs(float(sinkhorn_divergence(x, x.clone(), 1.0, 2000))) < 1e-6
    there, back = float(sinkhorn_divergence(x, y, 1.0, 2000)), float(sinkhorn_divergence(y, x, 1.0, 2000))
    assert there > 0.1
    assert there == pytest.approx(back, rel=1e-5)


def test_the_gradient_is_the_difference_quotient():
    x, y = clouds(6, 5, 2)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: sinkhorn_divergence(x, y, 0.5, 2000, 1e-12), (x,), eps=1e-5, atol=1e-5, rtol=1e-4
    )


def test_it_says_when_it_did_not_converge_and_refuses_bad_input():
    x, y = clouds()
    with pytest.warns(NotConverged, match="still move"):
        transport_cost(x, y, 1e-3, iterations=1, tolerance=1e-12)
    for eps in (0.0, -1.0):
        with pytest.raises(ValueError, match="positive"):
            transport_cost(x, y, eps)
    with pytest.raises(ValueError, match="empty"):
        transport_cost(x[:0], y, 0.1)
    with pytest.raises(ValueError, match="NaN"):
        transport_cost(x * torch.nan, y, 0.1)


def test_clouds_that_are_solved_together_are_those_solved_apart():
    x, y = clouds(24, 18)
    x, y = x.view(2, 12, 3), y.view(2, 9, 3) * 0.5
    together = sinkhorn_divergence(x, y, 0.3, 2000, 1e-10)
    apart = [float(sinkhorn_divergence(a, b, 0.3, 2000, 1e-10)) for a, b in zip(x, y, strict=True)]
    assert together.tolist() == pytest.approx(apart, rel=1e-6)
