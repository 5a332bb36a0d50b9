import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gramian.analysis.explain.freeze import Frozen
from gramian.analysis.explain.linear_scope import LinearScope
from gramian.analysis.explain.units import Unsupported
from gramian.linalg.spectral.lanczos import NotConverged


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Of(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def convolutional():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    )
    nn.init.uniform_(net[1].running_var, 0.5, 2)
    nn.init.normal_(net[1].running_mean)
    return net.double().eval()


PIECEWISE = {
    "relu": F.relu, "relu6": lambda x: F.relu6(4 * x), "hardtanh": F.hardtanh, "leaky": lambda x: F.leaky_relu(x, 0.2),
    "clamp": lambda x: x.clamp(-0.5, 1.0), "abs": torch.abs, "max pool": lambda x: F.max_pool1d(x, 2),
    "written over": lambda x: (x * 2).relu_(), "clipped in place": lambda x: F.hardtanh(3 * x, inplace=True),
    "threshold": lambda x: F.threshold(x, 0.3, -1.0),
}  # fmt: skip
SMOOTH = {
    "silu": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "tanh": torch.tanh, "elu": F.elu,
    "softmax gate": lambda x: x * torch.softmax(x, -1), "sigmoid gate": lambda x: x * x.sigmoid(),
    "layer norm": lambda x: F.layer_norm(x, (6,), eps=1e-3), "rms norm": lambda x: F.rms_norm(x, (6,)),
    "group norm": lambda x: F.group_norm(x, 2, torch.arange(4.0).double(), torch.ones(4).double()),
    "unit length": lambda x: F.normalize(x, dim=-1), "by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, True)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(4, 4).tril().bool(), scale=0.3),
    "attention by hand": lambda x: torch.softmax(x @ x.mT, -1) @ x, "linear attention": lambda x: x @ x.mT @ x,
}  # fmt: skip


@pytest.mark.parametrize("name", [*PIECEWISE, *SMOOTH])
def test_frozen_units_give_the_answer_and_are_affine(name):
    model = Of({**PIECEWISE, **SMOOTH}[name])
    x, u, v = (normal(2, 4, 6, seed=s) for s in range(3))
    frozen = LinearScope(model)(x)
    torch.testing.assert_close(frozen.y, model(x))
    torch.testing.assert_close(frozen.matvec(x) + frozen.residual, model(x))
    torch.testing.assert_close(frozen.matvec(2 * u - v), 2 * frozen.matvec(u) - frozen.matvec(v))
    w = torch.ones_like(frozen.y)
    torch.testing.assert_close((frozen.matvec(u) * w).sum(), (u * frozen.rmatvec(w)).sum())


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_units_keep_their_jacobian(name):
    x = normal(1, 2, 6)
    frozen = LinearScope(Of(PIECEWISE[name]))(x)
    rows, columns = frozen.shape
    jacobian = torch.autograd.functional.jacobian(PIECEWISE[name], x).reshape(rows, columns)
    torch.testing.assert_close(frozen.rows(range(rows)).view(rows, columns), jacobian)
    torch.testing.assert_close(frozen.columns(range(columns)).view(columns, rows).T, jacobian)


def test_a_smooth_unit_has_its_gain_and_its_slope_at_zero():
    x = torch.tensor([0.0, 2.0], dtype=torch.float64)
    gain = LinearScope(Of(F.silu))(x).rows([0, 1]).diagonal()
    torch.testing.assert_close(gain, torch.tensor([0.5, torch.sigmoid(torch.tensor(2.0)).item()], dtype=torch.float64))


def test_what_is_clipped_is_in_the_residual():
    frozen = LinearScope(nn.ReLU6())(torch.tensor([-1.0, 2.0, 9.0]))
    torch.testing.assert_close(frozen.residual, torch.tensor([0.0, 0.0, 6.0]))
    torch.testing.assert_close(frozen.matvec(torch.ones(3)), torch.tensor([0.0, 1.0, 0.0]))


def test_singular_values_are_those_of_the_jacobian():
    net, x = convolutional(), normal(1, 2, 6, 6)
    frozen = LinearScope(net)(x)
    jacobian = torch.autograd.functional.jacobian(net, x).view(4, -1)
    found = frozen.svd(3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.values, torch.linalg.svdvals(jacobian)[:3])
    torch.testing.assert_close(found.left.flatten(1) @ found.left.flatten(1).T, torch.eye(3).double())
    torch.testing.assert_close(frozen.matvec(found.right[0]), found.values[0] * found.left[0])
    dense = frozen.operator() @ torch.eye(72, dtype=torch.float64).numpy()
    torch.testing.assert_close(torch.from_numpy(dense), jacobian)
    torch.testing.assert_close(torch.from_numpy(frozen.operator().T @ torch.eye(4).double().numpy()), jacobian.T)
    with pytest.warns(NotConverged, match="give more steps"):
        LinearScope(Of(lambda x: x * torch.arange(1.0, 73).double().view(1, 2, 6, 6)))(x).svd(3, steps=5)
    with pytest.raises(ValueError, match="1 to 4 are there"):
        frozen.svd(5)


def test_the_model_is_left_as_found():
    net = convolutional()
    net[0].weight.requires_grad_(False)
    asked = [p.requires_grad for p in net.parameters()]
    LinearScope(net)(normal(1, 2, 6, 6)).rmatvec(normal(1, 4))
    assert [p.requires_grad for p in net.parameters()] == asked
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (torch.exp, "exp"),
        (torch.sin, "sin"),
        (lambda x: x * x, "which of them is the gate"),
        (lambda x: 1 / x, "reciprocal|rdiv|div"),
        (lambda x: x / x.sum(), "divisor|depends on the input"),
        (lambda x: F.max_pool1d(x, 2, return_indices=True)[0], "indices|depends on the input"),
    ],
)
def test_what_cannot_be_frozen_is_named(function, word):
    with pytest.raises(Unsupported, match=word):
        LinearScope(Of(function))(normal(1, 4, 6))


def test_bad_models_and_inputs_are_refused():
    with pytest.raises(ValueError, match=r"training mode: call model.eval\(\)"):
        LinearScope(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    net = convolutional()
    frozen = LinearScope(net)(normal(1, 2, 6, 6))
    for bad in (lambda: frozen.matvec(normal(1, 2, 5, 6)), lambda: frozen.rmatvec(normal(4))):
        with pytest.raises(ValueError, match="for an interpreter of shape"):
            bad()
    with pytest.raises(ValueError, match="of 4: give at least one"):
        frozen.rows([4])
    with pytest.raises(ValueError, match="not finite"):
        LinearScope(net)(normal(1, 2, 6, 6) / 0)
    with pytest.raises(ValueError, match="returns a tuple"):
        LinearScope(Of(lambda x: (x, x)))(normal(3))


def test_a_path_that_depends_on_the_input_is_noticed():
    turns = Of(lambda x: x.relu() if bool(x.sum() > 0) else x.tanh())
    with pytest.raises(RuntimeError, match="its path depends on its input"):
        LinearScope(turns)(torch.ones(3))


def test_frozen_gradients_without_an_interpreter():
    x = normal(3, 4).requires_grad_()
    with Frozen():
        y = F.layer_norm(x, (4,))
    (gradient,) = torch.autograd.grad(y[:, 0].sum(), x)
    std = x.detach().var(1, unbiased=False).add(1e-5).sqrt()
    torch.testing.assert_close(gradient, (torch.eye(4).double()[0] - 0.25) / std[:, None])
