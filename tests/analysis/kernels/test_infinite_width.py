import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.kernels import infinite_width


def plain(s, squares, depth, kind):
    value = kernel = s
    for _ in range(depth):
        new = sum(a * value**k for k, a in enumerate(squares))
        slope = sum(k * a * value ** (k - 1) for k, a in enumerate(squares) if k)
        kernel, value = new + kernel * slope, new
    return kernel if kind == "ntk" else value


@settings(max_examples=10)
@given(s=st.floats(0.05, 1.0), depth=st.integers(0, 5), kind=st.sampled_from(("nngp", "ntk")))
def test_the_recursion_in_logarithms_is_the_plain_one(s, depth, kind):
    for squares in ((0.0, 0.4, 0.3, 0.3), (0.2, 0.5, 0.3), (0.0, 0.0, 1.0)):
        found = infinite_width.log_kernel(
            torch.tensor([s], dtype=torch.float64), infinite_width.HermiteDual(squares), depth, kind
        )
        assert float(found) == pytest.approx(math.log(plain(s, squares, depth, kind)), abs=1e-9)


def test_relu_has_its_known_values():
    s = torch.tensor([1.0, 0.5], dtype=torch.float64)
    kernel = infinite_width.log_kernel(s, infinite_width.ReluDual(), 1, "ntk").exp()
    angle = math.acos(0.5)
    value = (math.sin(angle) + (math.pi - angle) * 0.5) / math.pi
    assert kernel.tolist() == pytest.approx([2.0, value + 0.5 * (math.pi - angle) / math.pi])


def test_depth_far_beyond_underflow_stays_finite():
    _, dual = infinite_width.optimal_activation(4)
    logs = infinite_width.log_kernel(torch.tensor([0.1, 0.9], dtype=torch.float64), dual, 3000)
    assert bool(torch.isfinite(logs).all())
    assert float(logs.max()) < -2000


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_optimal_activations_have_their_dual_and_exponent(dim):
    activation, dual = infinite_width.optimal_activation(dim)
    assert infinite_width.hermite_dual(activation, 4).squares[:4] == pytest.approx(dual.squares)
    kind, exponent = infinite_width.taxonomy(activation)
    assert kind == "singular"
    assert exponent == pytest.approx(dim)


def test_gradients_are_exact():
    _, dual = infinite_width.optimal_activation(3)
    s = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    for kind in ("nngp", "ntk"):
        assert torch.autograd.gradcheck(lambda x, kind=kind: infinite_width.log_kernel(x, dual, 3, kind), (s,))


def test_what_cannot_be_is_refused():
    dual = infinite_width.ReluDual()
    for s in (0.0, -0.5, 1.1):
        with pytest.raises(ValueError, match="must lie in"):
            infinite_width.log_kernel(torch.tensor([s]), dual, 2)
    with pytest.raises(ValueError, match="unknown"):
        infinite_width.log_kernel(torch.ones(1), dual, 2, "nngk")
    with pytest.raises(ValueError, match="negative"):
        infinite_width.log_kernel(torch.ones(1), dual, -1)
    with pytest.raises(ValueError, match="add up to 1"):
        infinite_width.HermiteDual((0.5, 0.6))
    with pytest.raises(ValueError, match="divide the activation"):
        infinite_width.hermite_dual(lambda x: 2 * x, 3)
    with pytest.raises(ValueError, match="divide the activation"):
        infinite_width.taxonomy(lambda x: 2 * x)
    with pytest.raises(ValueError, match="beyond degree"):
        infinite_width.hermite_dual(lambda x: (x**3 - 3 * x) / 6**0.5, 2)
    with pytest.raises(ValueError, match="dimension 2"):
        infinite_width.optimal_activation(1)
