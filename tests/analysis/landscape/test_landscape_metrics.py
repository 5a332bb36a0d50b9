import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.analysis.landscape.bezier import BezierCurve, bezier_connect, mode_connectivity
from gramian.analysis.landscape.metrics import landscape_metrics
from gramian.analysis.landscape.similarity import linear_cka
from gramian.optim.curvature import Layout


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


def loss(module, x, y):
    return F.cross_entropy(module(x), y)


X, Y = normal(50, 4), torch.arange(50) % 3


@settings(max_examples=10)
@given(samples=st.integers(3, 9), features=st.integers(1, 6), others=st.integers(1, 6), seed=st.integers(0, 50))
def test_similarity_is_that_of_the_centred_kernels(samples, features, others, seed):
    x, y = normal(samples, features, seed=seed), normal(samples, others, seed=seed + 100)
    centre = torch.eye(samples, dtype=torch.float64) - 1 / samples
    a, b = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre

    def hsic(p, q):
        return (p * q).sum()

    found = linear_cka(x, y)
    torch.testing.assert_close(found, hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt(), rtol=1e-9, atol=1e-12)
    turn = torch.linalg.qr(normal(others, others, seed=seed)).Q
    torch.testing.assert_close(linear_cka(x, 3 * y @ turn + 2), found, rtol=1e-8, atol=1e-10)


def test_similarity_has_a_gradient_and_its_bounds():
    x, y = normal(8, 3), normal(8, 4, seed=1)
    assert torch.autograd.gradcheck(linear_cka, (x.requires_grad_(), y.requires_grad_()))
    assert float(linear_cka(x, x).detach()) == pytest.approx(1.0)
    assert 0 <= float(linear_cka(x, y).detach()) < 1


def test_similarity_refuses_what_has_none():
    for x, y, words in (
        (torch.ones(3, 2), normal(3, 2), "variance is zero"),
        (normal(3, 2), normal(4, 2), "same samples"),
        (normal(1, 2), normal(1, 2), "at least two"),
        (torch.full((3, 2), float("nan")), normal(3, 2), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_cka(x, y)


def test_the_curve_begins_and_ends_at_the_networks_which_stay_as_they_were():
    a, b = network(0), network(1)
    before = [copy.deepcopy(m.state_dict()) for m in (a, b)]
    curve = bezier_connect(a, b, loss, (X, Y), steps=20, generator=torch.Generator().manual_seed(0))
    for place, model, state in ((0, a, before[0]), (1, b, before[1])):
        for name, tensor in curve.network(place).state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=1e-15)
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert [p.grad for p in a.parameters()] == [None] * 4
    values = curve.along(loss, (X, Y), 5)
    assert float(values[0]) == pytest.approx(float(loss(a, X, Y).detach()))
    assert float(values[2]) == pytest.approx(float(loss(curve.network(0.5), X, Y).detach()))


def test_the_bend_goes_around_a_ridge():
    """Two orders of the same hidden units compute the same, and the straight line between them crosses a ridge."""
    a = network(3, width=12)
    with torch.no_grad():
        for p in a.parameters():
            p.mul_(2)
    b, order = copy.deepcopy(a), torch.arange(12).flip(0)
    with torch.no_grad():
        b[0].weight.copy_(a[0].weight[order])
        b[0].bias.copy_(a[0].bias[order])
        b[2].weight.copy_(a[2].weight[:, order])
    targets = a(X).argmax(1)
    straight = BezierCurve(a, b).along(loss, (X, targets), 9)
    curve = bezier_connect(a, b, loss, (X, targets), steps=200, lr=0.03, generator=torch.Generator().manual_seed(0))
    bent = curve.along(loss, (X, targets), 9)
    assert mode_connectivity(straight) < -0.1
    assert bent[1:-1].max() < 0.5 * straight.max()


def test_connectivity_has_the_sign_of_what_is_between():
    assert mode_connectivity(torch.tensor([1.0, 3.0, 1.0])) == -2
    assert mode_connectivity(torch.tensor([1.0, 0.5, 0.2, 1.0])) == pytest.approx(0.8)
    assert mode_connectivity(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="three"):
        mode_connectivity(torch.tensor([1.0, 2.0]))


def test_curvature_is_that_of_the_dense_hessian():
    models = [network(k) for k in range(2)]
    found = landscape_metrics(
        models, loss, (X, Y), names=("train_loss", "hessian_top", "hessian_trace"), products=51,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    top = trace = mean = 0.0
    for model in models:
        layout = Layout(model)

        def value(w, layout=layout, model=model):
            return loss(lambda x: torch.func.functional_call(model, layout.unflatten(w), (x,)), X, Y)

        dense = torch.func.hessian(value)(layout.read(model))
        top += float(torch.linalg.eigvalsh(dense)[-1]) / 2
        trace += float(dense.trace()) / 2
        mean += float(loss(model, X, Y).detach()) / 2
    assert found["hessian_top"] == pytest.approx(top, rel=1e-6)
    assert found["hessian_trace"] == pytest.approx(trace, rel=0.03)
    assert found["train_loss"] == pytest.approx(mean)


def test_pairs_are_averaged_and_a_dead_network_is_like_no_other():
    a, b, dead = network(0), network(1), network(2)
    nn.init.zeros_(dead[2].weight)
    found = landscape_metrics([a, b, dead], loss, (X, Y), names=("similarity",))
    alike = float(linear_cka(a(X), b(X)).detach())
    assert found == {"similarity": pytest.approx(alike / 3)}
    same = landscape_metrics([a, copy.deepcopy(a)], loss, (X, Y), names=("connectivity",), steps=1, lr=0.0)
    assert same["connectivity"] == pytest.approx(0.0, abs=1e-9)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="unknown metrics sharpness; there are train_loss"):
        landscape_metrics([network(0)], loss, (X, Y), names=("sharpness",))
    with pytest.raises(ValueError, match="several seeds"):
        landscape_metrics([network(0)], loss, (X, Y), names=("similarity",))
    with pytest.raises(ValueError, match="nothing to measure"):
        landscape_metrics([], loss, (X, Y), names=("train_loss",))
    with pytest.raises(ValueError, match="one architecture"):
        bezier_connect(network(0), network(1, width=7), loss, (X, Y))
    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="batch-norm"):
        BezierCurve(normed, normed)
