import copy
import warnings

import pytest
import torch
from torch import nn

from gramian.analysis.taylor import LinearizedModel, NotTwiceDifferentiable, QuadraticModel, ntk
from gramian.optim.curvature import Layout, at


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 2)).double().eval()


def inputs(count=5):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_polynomials_against_dense_derivatives():
    model, x = net(), inputs()
    layout = Layout(model)
    point = layout.read(model)
    d = 0.3 * torch.randn(layout.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def f(w):
        return at(model, layout.unflatten(w))(x)

    first = torch.func.jacrev(f)(point) @ d
    second = torch.func.hessian(f)(point) @ d @ d
    value = model(x)
    for kind, expected in ((LinearizedModel, value + first), (QuadraticModel, value + first + second / 2)):
        taylor = kind(model)
        torch.testing.assert_close(taylor(x), value)
        with torch.no_grad():
            taylor.displacement.copy_(d)
        torch.testing.assert_close(taylor(x), expected)
        torch.testing.assert_close(taylor.network()(x), f(point + d))


def test_gradient_by_the_displacement():
    model, x = net(), inputs()
    taylor = QuadraticModel(model)
    with torch.no_grad():
        taylor.displacement.normal_(0, 0.1, generator=torch.Generator().manual_seed(4))

    def loss(d):
        return torch.func.functional_call(taylor, {"displacement": d}, (x,)).square().sum()

    assert torch.autograd.gradcheck(loss, (taylor.displacement,))


def test_only_the_displacement_trains_and_the_model_stays():
    model, x = net(), inputs()
    state = copy.deepcopy(model.state_dict())
    taylor = QuadraticModel(model)
    assert [n for n, _ in taylor.named_parameters()] == ["displacement"]
    optimizer = torch.optim.SGD(taylor.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (taylor(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name])
    again = QuadraticModel(net())
    again.load_state_dict(taylor.state_dict())
    torch.testing.assert_close(again(x), taylor(x))
    assert taylor.float()(x.float()).dtype == torch.float32


def test_kernel_is_the_product_of_gradients():
    model, x = net(), inputs()
    rows = []
    for out in model(x).reshape(-1):
        grads = torch.autograd.grad(out, tuple(model.parameters()), retain_graph=True)
        rows.append(torch.cat([g.reshape(-1) for g in grads]))
    j = torch.stack(rows)
    torch.testing.assert_close(ntk(model, x), j @ j.mT)
    torch.testing.assert_close(ntk(model, x, x[:2]), (j @ j.mT)[:, :4])
    # the linearized model keeps its kernel
    taylor = LinearizedModel(model)
    with torch.no_grad():
        taylor.displacement.normal_(generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ntk(taylor, x), j @ j.mT)


def test_bad_input_is_refused():
    with pytest.warns(NotTwiceDifferentiable, match="ReLU"):
        QuadraticModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearizedModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="complex64"):
        QuadraticModel(nn.Linear(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="no parameter"):
        LinearizedModel(nn.Tanh())
