import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gramian.science.limits import KernelLimit, LinearTwoLayerLimit


def target(seed, k=2, d=3):
    g = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(5, s, generator=g, dtype=torch.float64) for s in (d, k))
    return lambda f: (x @ f.mT - y).square().mean()


class Neurons:
    """Finitely many neurons whose second moments are exactly the identity: descent on them is the limit itself."""

    def __init__(self, d, k, lr):
        n = d + k
        z = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q * n**0.5
        self.u, self.v = nn.Parameter(z[:, :d].clone()), nn.Parameter(z[:, d:].clone())
        self.lr, self.n = lr, n

    def function(self, u, v):
        return v.mT @ u / self.n

    def step(self, objective):
        grads = torch.autograd.grad(objective(self.function(self.u, self.v)), (self.u, self.v))
        with torch.no_grad():
            for p, g in zip((self.u, self.v), grads):
                p -= self.lr * self.n * g


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9), st.floats(0.01, 0.3))
def test_state_is_the_second_moment_of_the_neurons(d, k, seed, lr):
    net, limit = Neurons(d, k, lr), LinearTwoLayerLimit(d, k, lr=lr, dtype=torch.float64)
    for step in range(5):
        objective = target(seed + step, k, d)
        limit.step(objective)
        net.step(objective)
    z = torch.cat([net.u, net.v], 1).detach()
    torch.testing.assert_close(limit.state, z.mT @ z / net.n)
    torch.testing.assert_close(limit.features, (net.u.mT @ net.u / net.n).detach())


def test_meta_step_is_first_order_meta_learning_of_the_neurons():
    d, k, inner = 3, 2, 0.2
    net, limit = Neurons(d, k, 0.1), LinearTwoLayerLimit(d, k, lr=0.1, dtype=torch.float64)
    for step in range(3):
        tasks = [(target(10 * step + i), target(10 * step + i + 5)) for i in range(2)]
        limit.meta_step(tasks, inner)
        total = [torch.zeros_like(net.u), torch.zeros_like(net.v)]
        for support, query in tasks:
            grads = torch.autograd.grad(support(net.function(net.u, net.v)), (net.u, net.v))
            there = [(p - inner * net.n * g).detach().requires_grad_() for p, g in zip((net.u, net.v), grads)]
            for t, g in zip(total, torch.autograd.grad(query(net.function(*there)), there)):
                t += g / 2
        with torch.no_grad():
            net.u -= 0.1 * net.n * total[0]
            net.v -= 0.1 * net.n * total[1]
    torch.testing.assert_close(limit.function, net.function(net.u, net.v).detach())


def test_kernel_limit_is_descent_with_frozen_features():
    kernel = KernelLimit(3, 2, lr=0.1, input_scale=2, dtype=torch.float64)
    slow = LinearTwoLayerLimit(3, 2, lr=0.1, input_scale=2, dtype=torch.float64)
    gradient = kernel.step(target(0))
    torch.testing.assert_close(kernel.function, -0.1 * 5 * gradient)
    slow.step(target(0))
    # in the first step features have not moved yet; later they have
    torch.testing.assert_close(slow.function, kernel.function, atol=0.1 * float(gradient.norm()) ** 2, rtol=0)
    assert torch.equal(kernel.features, 4 * torch.eye(3, dtype=torch.float64))
    there = kernel.adapted(target(1), 2, lr=0.2)
    assert kernel.lr == 0.1
    assert there.lr == 0.2
    assert not torch.equal(there.function, kernel.function)
    kernel.meta_step([(target(1), target(1))], 0.1)


def test_adapting_leaves_the_limit_alone():
    limit = LinearTwoLayerLimit(3, 2, lr=0.1, dtype=torch.float64)
    limit.step(target(0))
    before = limit.state.clone()
    other = limit.adapted(target(1), steps=3)
    assert torch.equal(limit.state, before)
    for _ in range(3):
        limit.step(target(1))
    torch.testing.assert_close(limit.state, other.state)


@pytest.mark.parametrize("cls", [LinearTwoLayerLimit, KernelLimit])
def test_errors(cls):
    for settings, word in (({"lr": 0.0}, "lr"), ({"lr": 1.0, "input_scale": -1.0}, "scales")):
        with pytest.raises(ValueError, match=word):
            cls(2, 2, **settings)
    with pytest.raises(ValueError, match="inputs"):
        cls(0, 2, lr=1.0)
    limit = cls(2, 2, lr=1.0)
    with pytest.raises(ValueError, match="one finite number"):
        limit.step(lambda f: f)
    with pytest.raises(ValueError, match="one finite number"):
        limit.step(lambda f: f.sum() * float("nan"))
    with pytest.raises(ValueError, match="task"):
        limit.meta_step([], 0.1)
