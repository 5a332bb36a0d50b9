import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gramian.optim import catapult


class TwoLayer(nn.Module):
    def __init__(self, width, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.u = nn.Parameter(torch.randn(width, generator=g, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(width, generator=g, dtype=torch.float64))

    def forward(self, x):
        return x * (self.u @ self.v) / len(self.u) ** 0.5


ONE, ZERO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(1, 200), st.floats(0.2, 3.5), st.integers(0, 9))
def test_recursion_is_gradient_descent(width, product, seed):
    model = TwoLayer(width, seed)
    kernel = catapult.kernel_norm(model, ONE)
    assert abs(kernel - float((model.u.detach().square().sum() + model.v.detach().square().sum()) / width)) < 1e-12
    start = float(model(ONE).detach())
    lr = product / kernel
    f, kernels = catapult.two_layer_recursion(start, kernel, width, lr, 20)
    trace = catapult.run(model, ONE, ZERO, lr, 20, kernel_every=1, limit=1e4)
    loss = torch.tensor(trace.loss, dtype=torch.float64)
    torch.testing.assert_close(loss, 0.5 * f[: len(loss)].square(), rtol=1e-8, atol=1e-14)
    for step, value in trace.kernel:
        assert abs(value - float(kernels[step])) <= 1e-8 * max(1.0, abs(value))


def test_linear_regression_turns_divergent_at_two_over_the_kernel():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g), torch.randn(20, 1, generator=g)
    for factor, phase in ((0.98, "monotone"), (1.05, "divergent")):
        model = nn.Linear(3, 1)
        nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
        critical, largest = catapult.critical_rates(model, x)
        assert largest == 2 * critical
        trace = catapult.run(model, x, y, factor * critical, 800)
        assert trace.phase == phase
        assert (trace.sharpness < 2) == (factor < 1)


def test_stops_and_errors():
    model = TwoLayer(50)
    trace = catapult.run(model, ONE, ZERO, 0.3, 10_000, target=1e-12)
    assert trace.loss[-1] <= 1e-12
    assert len(trace.loss) < 200
    with pytest.raises(ValueError, match="lr="):
        catapult.run(model, ONE, ZERO, 0.0, 5)
    with pytest.raises(ValueError, match="steps="):
        catapult.run(model, ONE, ZERO, 0.1, 0)
    with pytest.raises(ValueError, match="one number"):
        catapult.run(model, ONE.expand(3), ZERO.expand(3), 0.1, 2, objective=lambda f, y: f - y)
    with pytest.raises(ValueError, match="shape"):
        catapult.run(model, ONE, ZERO[None], 0.1, 2)
    with pytest.raises(ValueError, match="complex64"):
        catapult.run(nn.Linear(1, 1, dtype=torch.complex64), ONE, ZERO, 0.1, 2)
    with pytest.raises(ValueError, match="width"):
        catapult.two_layer_recursion(1.0, 1.0, 0, 0.1, 2)
    with pytest.raises(ValueError, match="kernel"):
        catapult.two_layer_recursion(1.0, 0.0, 3, 0.1, 2)
