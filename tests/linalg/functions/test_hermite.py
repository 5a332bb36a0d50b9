import math

import pytest
import torch
from scipy.special import eval_hermitenorm

from gramian.linalg.functions.hermite import gauss_hermite, hermite, hermite_coefficients, quadratic_part


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 11])
def test_it_is_scipy_s_over_the_root_of_the_factorial(degree):
    x = torch.linspace(-4, 4, 31, dtype=torch.float64)
    expected = torch.from_numpy(eval_hermitenorm(degree, x.numpy())) / math.sqrt(math.factorial(degree))
    torch.testing.assert_close(hermite(degree, x), expected)


def test_gradients_are_the_lower_degree():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(hermite(4, x).sum(), x)
    torch.testing.assert_close(slope, 2 * hermite(3, x.detach()))
    assert torch.autograd.gradcheck(lambda t: hermite(3, t), (x,))


def test_coefficients_of_relu_and_parseval():
    found = hermite_coefficients(torch.relu, 2, points=150)
    assert found.tolist() == pytest.approx([1 / math.sqrt(2 * math.pi), 0.5, 1 / (2 * math.sqrt(math.pi))], abs=5e-3)
    poly = hermite_coefficients(lambda x: x**3 - 2 * x, 5)
    assert float(poly.square().sum()) == pytest.approx(15 - 4 * 3 + 4)


def test_the_quadratic_part_of_a_quadratic_is_its_matrix():
    nodes, weights = gauss_hermite(4)
    x = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(1) * len(x)
    matrix = torch.tensor([[0.5, -0.3], [-0.3, -0.2]], dtype=torch.float64)
    values = torch.einsum("ni,ij,nj->n", x, matrix, x) + 3 + x[:, 0] ** 3
    # weighted samples: the weights multiply the values, and the mean that is taken off is the weighted one
    found = quadratic_part(x, values * weight)
    torch.testing.assert_close(found, matrix)
    generator = torch.Generator().manual_seed(0)
    many = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)
    drawn = quadratic_part(many, torch.einsum("ni,ij,nj->n", many, matrix, many))
    torch.testing.assert_close(drawn, matrix, rtol=0, atol=0.02)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="negative"):
        hermite(-1, torch.zeros(1))
    with pytest.raises(ValueError, match="points"):
        gauss_hermite(0)
    with pytest.raises(ValueError, match="degree"):
        hermite_coefficients(torch.relu, 10, points=10)
    with pytest.raises(ValueError, match="no sample"):
        quadratic_part(torch.zeros(0, 2), torch.zeros(0))
