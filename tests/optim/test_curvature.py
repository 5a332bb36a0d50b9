import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.optim.curvature import Hessian, Layout, at, ggn_vp, gradient, hvp, jacobian, loss_at


def net(dtype=torch.float64, *extra):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), *extra, nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def batch(dtype=torch.float64, count=12):
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, generator=g, dtype=dtype), torch.randint(3, (count,), generator=g)


def cross_entropy(module, x, y):
    return F.cross_entropy(module(x), y)


def dense(module, x, y):
    layout = Layout(module)
    point = layout.read(module)
    return torch.func.hessian(lambda w: loss_at(module, cross_entropy, (x, y), layout, w))(point)


def test_flatten_and_unflatten_are_inverse():
    module = net()
    layout = Layout(module)
    vector = torch.randn(layout.size, dtype=torch.float64)
    torch.testing.assert_close(layout.flatten(layout.unflatten(vector)), vector)
    before = layout.read(module)
    layout.write(module, vector)
    torch.testing.assert_close(layout.read(module), vector)
    layout.write(module, before)
    part = Layout(module, r"0\.")
    assert part.names == ("0.weight", "0.bias")
    assert part.size == 25
    torch.testing.assert_close(part.read(module), before[:25])


def test_products_are_those_of_the_dense_hessian():
    module, (x, y) = net(), batch()
    h = dense(module, x, y)
    operator = Hessian(module, cross_entropy, (x, y))
    v = torch.randn(operator.size, dtype=torch.float64)
    for scale in (1.0, 3.0):
        torch.testing.assert_close(operator(scale * v), scale * h @ v)
    torch.testing.assert_close(hvp(module, cross_entropy, (x, y), v), h @ v)
    named = hvp(module, cross_entropy, (x, y), operator.layout.unflatten(v))
    torch.testing.assert_close(operator.layout.flatten(named), h @ v)
    assert abs(operator.loss - float(cross_entropy(module, x, y).detach())) < 1e-12
    moved = Hessian(module, cross_entropy, (x, y), point=operator.point.detach() + 1)
    assert not torch.allclose(moved(v), h @ v)


def test_a_block_of_the_hessian():
    module, (x, y) = net(), batch()
    h = dense(module, x, y)
    operator = Hessian(module, cross_entropy, (x, y), Layout(module, "2"))
    v = torch.randn(operator.size, dtype=torch.float64)
    torch.testing.assert_close(operator(v), h[25:, 25:] @ v)


def test_gauss_newton_product_is_dense():
    module, (x, y) = net(), batch()
    j = jacobian(module, x)
    f = module(x).detach()
    inner = torch.func.hessian(lambda out: F.cross_entropy(out, y))(f).reshape(36, 36)
    v = torch.randn(j.shape[1], dtype=torch.float64)
    torch.testing.assert_close(ggn_vp(module, F.cross_entropy, x, y, v), j.mT @ (inner @ (j @ v)))
    named = ggn_vp(module, F.cross_entropy, x, y, Layout(module).unflatten(v))
    torch.testing.assert_close(Layout(module).flatten(named), j.mT @ (inner @ (j @ v)))
    # a linear model: Gauss–Newton is the Hessian
    linear = nn.Linear(4, 3).double()
    v = torch.randn(15, dtype=torch.float64)
    torch.testing.assert_close(ggn_vp(linear, F.cross_entropy, x, y, v), hvp(linear, cross_entropy, (x, y), v))
    torch.testing.assert_close(ggn_vp(linear, lambda f, t: f.sum(), x, y, v), torch.zeros_like(v))


def test_jacobian_rows_and_gradient():
    module, (x, y) = net(), batch()
    rows = jacobian(module, x, chunk=5)
    out = module(x)
    for sample, output in ((0, 0), (7, 2)):
        grads = torch.autograd.grad(out[sample, output], tuple(module.parameters()), retain_graph=True)
        torch.testing.assert_close(rows[3 * sample + output], torch.cat([g.reshape(-1) for g in grads]))
    expected = torch.autograd.grad(cross_entropy(module, x, y), tuple(module.parameters()))
    torch.testing.assert_close(gradient(module, cross_entropy, (x, y)), torch.cat([g.reshape(-1) for g in expected]))


def test_the_module_is_left_as_found():
    module, (x, y) = net(torch.float64, nn.BatchNorm1d(5)), batch()
    module[0].weight.requires_grad_(False)
    state = {k: v.clone() for k, v in module.state_dict().items()}
    with torch.no_grad():
        Hessian(module, cross_entropy, (x, y))(torch.ones(Layout(module).size, dtype=torch.float64))
    at(module, {})(x)
    assert module.training
    assert not module[0].weight.requires_grad
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_a_loss_linear_in_the_parameters_has_zero_hessian():
    module = nn.Linear(4, 1)
    x = torch.randn(6, 4)
    product = hvp(module, lambda m, x: m(x).sum(), (x,), torch.ones(5))
    assert product.abs().max() == 0


def test_bad_input_is_refused():
    module, (x, y) = net(), batch()
    layout = Layout(module)
    with pytest.raises(ValueError, match="one number"):
        hvp(module, lambda m, x, y: m(x), (x, y), torch.ones(layout.size))
    with pytest.raises(ValueError, match="entries"):
        hvp(module, cross_entropy, (x, y), torch.ones(3))
    with pytest.raises(ValueError, match="no Hessian"):
        Hessian(module, lambda m, x, y: m(x).sum() * float("inf"), (x, y))
    with pytest.raises(ValueError, match="no parameter matches"):
        Layout(module, "head")
    with pytest.raises(ValueError, match="lacks"):
        layout.flatten({"0.weight": module[0].weight})
    with pytest.raises(ValueError, match="shape"):
        layout.flatten({n: torch.zeros(2) for n in layout.names})
    with pytest.raises(ValueError, match="vector of shape"):
        layout.unflatten(torch.zeros(2))
    with pytest.raises(ValueError, match="dtype"):
        Layout(nn.Linear(2, 2, dtype=torch.complex64))
