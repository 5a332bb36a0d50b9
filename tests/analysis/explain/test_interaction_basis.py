"""The local interaction basis against its definition, and what it does not depend on."""

import pytest
import torch
from torch import nn

from gramian.analysis.explain.interaction_basis import LocalInteractionBasis, fold_biases


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)).double()


NODES = ["1", "3", "4"]


@pytest.mark.parametrize("function", [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU()])
def test_biases_become_a_constant_coordinate(function):
    net = nn.Sequential(nn.Linear(4, 5), function, nn.Linear(5, 2, bias=False)).double()
    x = normal(6, 4)
    out = fold_biases(net)(torch.cat((x, torch.ones(6, 1, dtype=torch.float64)), 1))
    torch.testing.assert_close(out[:, :-1], net(x).detach())
    assert (out[:, -1] == 1).all()


def test_it_is_what_its_steps_say():
    net, x = network(), normal(80, 4, seed=1)
    found = LocalInteractionBasis(net, NODES).fit(x)
    folded = fold_biases(net)
    f = folded[:4](torch.cat((x, torch.ones(80, 1, dtype=torch.float64)), 1))
    sizes, axes = torch.linalg.eigh(f.mT @ f / 80)
    kept = sizes > 1e-10 * sizes.max()
    sizes, axes = sizes[kept], axes[:, kept]
    # the last layer is linear: its Jacobian is its weight, and its basis a rotation, which a Gram matrix does not see
    out = folded[4](f)
    last = torch.linalg.eigh(out.mT @ out / 80)
    alive = last.eigenvectors[:, last.eigenvalues > 1e-10 * last.eigenvalues.max()]
    slope = alive.mT @ folded[4].weight
    color = (axes * sizes.sqrt()).mT
    expected = torch.linalg.eigvalsh(color @ slope.mT @ slope @ color.mT).flip(0)
    torch.testing.assert_close(found.sizes["3"], expected[: len(found.sizes["3"])])
    hat = found.transform(x, "3")
    torch.testing.assert_close(hat.mT @ hat / 80, found.sizes["3"].diag(), rtol=1e-8, atol=1e-8)


def test_a_mixed_layer_has_the_same_features():
    net, x = network(), normal(80, 4, seed=1)
    mixing = normal(7, 7, seed=2)
    mix, undo = nn.Linear(7, 7, bias=False).double(), nn.Linear(7, 6).double()
    with torch.no_grad():
        mix.weight.copy_(mixing)
        undo.weight.copy_(net[2].weight @ torch.linalg.inv(mixing))
        undo.bias.copy_(net[2].bias)
    mixed = nn.Sequential(net[0], net[1], mix, undo, net[3], net[4])
    a = LocalInteractionBasis(net, NODES).fit(x)
    b = LocalInteractionBasis(mixed, ["2", "4", "5"]).fit(x)
    torch.testing.assert_close(a.sizes["1"], b.sizes["2"], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(a.transform(x, "1").abs(), b.transform(x, "2").abs(), rtol=1e-5, atol=1e-7)


def test_all_directions_keep_the_outputs_and_none_keep_the_constant_alone():
    net, x = network(), normal(80, 4, seed=1)
    found = LocalInteractionBasis(net, NODES).fit(x)
    for basis in ("interaction", "principal"):
        torch.testing.assert_close(found.ablate(x, "1", 8, basis=basis), net(x).detach(), rtol=1e-6, atol=1e-8)
        nothing = found.ablate(x, "1", 0, basis=basis)
        torch.testing.assert_close(nothing, nothing[:1].expand(80, -1))


def test_edges_are_slopes_times_features_squared():
    net, x = network(), normal(30, 4, seed=1)
    found = LocalInteractionBasis(net, NODES).fit(x)
    f = found.transform(x, "3")
    slope = (found._back["3"] @ fold_biases(net)[4].weight.mT @ found.bases["4"]).mT  # linear: the same everywhere
    expected = (slope[None] * f[:, None]).square().mean(0)
    for method in ("gradient", "integrated"):
        torch.testing.assert_close(found.edges(x, "3", method=method), expected)
    # folded biases make a section with ReLU homogeneous: its slopes are the same all the way from zero
    torch.testing.assert_close(found.edges(x, "1", method="integrated"), found.edges(x, "1"))
    net[3] = nn.Tanh()
    found = LocalInteractionBasis(net, NODES).fit(x)
    bent, straight = found.edges(x, "1"), found.edges(x, "1", method="integrated", points=12)
    finer = found.edges(x, "1", method="integrated", points=24, chunk=7)
    torch.testing.assert_close(straight, finer, rtol=1e-4, atol=1e-7)
    assert float((bent - finer).abs().max()) > 1e-3


def test_bad_input_is_refused():
    net, x = network(), normal(20, 4)
    with pytest.raises(TypeError, match="Sequential"):
        LocalInteractionBasis(nn.Linear(2, 2), ["0"])
    with pytest.raises(ValueError, match="'1' is a LayerNorm"):
        fold_biases(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    for nodes, message in ((["1", "9"], "no layer is called 9"), (["1"], "two or more"), (["3", "1"], "in the order")):
        with pytest.raises(ValueError, match=message):
            LocalInteractionBasis(net, nodes)
    with pytest.raises(ValueError, match="threshold=2"):
        LocalInteractionBasis(net, NODES, threshold=2.0)
    found = LocalInteractionBasis(net, NODES)
    with pytest.raises(ValueError, match="call fit first"):
        found.transform(x, "1")
    with pytest.raises(ValueError, match="finite rows"):
        found.fit(x * torch.nan)
    found.fit(x)
    for call, message in (
        (lambda: found.transform(x, "2"), "'2' is not a node layer"),
        (lambda: found.edges(x, "4"), "last node layer"),
        (lambda: found.edges(x, "1", method="integrated", points=0), "points=0"),
        (lambda: found.ablate(x, "1", -1), "keep=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    blind = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    nn.init.zeros_(blind[1].weight)
    nn.init.zeros_(blind[1].bias)
    sizes = LocalInteractionBasis(blind, ["0", "1"]).fit(x).sizes["0"]
    assert len(sizes) == 1  # the constant alone is read
