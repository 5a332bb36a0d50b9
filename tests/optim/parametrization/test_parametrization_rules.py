import copy

import pytest
import torch
from torch import nn

from gramian.optim.parametrization import rules, shapes
from gramian.optim.parametrization.rules import Parametrization, mup, spectral


def network(width, second=None):
    second = second or width
    return nn.Sequential(
        nn.Embedding(20, width), nn.Linear(width, second), nn.LayerNorm(second), nn.Linear(second, width),
        nn.Linear(width, 5),
    )  # fmt: skip


# what mup 1.0.0's MuSGD and MuAdam give the nine parameters of `network` at base widths (16, 32), and its
# MuReadout's multiplier
MUP = {
    (64, 32): ([4, 0.25, 1, 1, 1, 4, 4, 4, 1], [1, 0.25, 1, 1, 1, 1, 1, 1, 1], 0.25),
    (64, 256): ([4, 2, 8, 8, 8, 0.5, 4, 4, 1], [1, 0.25, 1, 1, 1, 0.125, 1, 1, 1], 0.25),
    (256, 128): ([16, 0.25, 4, 4, 4, 4, 16, 16, 1], [1, 0.0625, 1, 1, 1, 0.25, 1, 1, 1], 0.0625),
}


def rates(model, groups):
    by = {id(p): g["lr"] for g in groups for p in g["params"]}
    return [by[id(w.parameter)] for w in shapes.weights(model)]


@pytest.mark.parametrize("widths", MUP)
def test_groups_are_those_of_the_mup_package(widths):
    sgd, adam, multiplier = MUP[widths]
    base = shapes.base_shapes(network(16, 32))
    for optimizer, factors in (("sgd", sgd), ("adam", adam)):
        model, groups = mup(network(*widths), base, lr=1.0, optimizer=optimizer, delta=network(17, 33))
        assert rates(model, groups) == factors
        assert model[4].parametrizations.weight[0].factor == multiplier


def test_start_follows_the_rule_and_twice_is_once():
    base, wide = network(16), network(256)
    generator = torch.Generator().manual_seed(0)
    model, groups = Parametrization("mup", base, "adam", sigma=2.0).apply(
        wide, lr=0.1, weight_decay=0.01, generator=generator
    )
    assert model is wide
    stored = model[4].parametrizations.weight.original.detach()
    assert abs(float(stored.std()) / (2 / 4) - 1) < 0.05  # base fan-in 16
    torch.testing.assert_close(model[4].weight, stored / 16)
    assert abs(float(model[1].weight.detach().std()) / (2 / 16) - 1) < 0.02
    assert abs(float(model[0].weight.detach().std()) / 2 - 1) < 0.05
    assert float(model[1].bias.abs().max()) == 0
    assert float((model[2].weight - 1).abs().max()) == 0
    for group in groups:
        matrices = all(p.ndim > 1 for p in group["params"])
        torch.testing.assert_close(group["lr"] * group["weight_decay"], 0.001 if matrices else 0.0)
    before = copy.deepcopy(model.state_dict())
    again, more = Parametrization("mup", base, "adam", sigma=2.0).apply(model, lr=0.1, initialize=False)
    assert len(again[4].parametrizations.weight) == 1
    assert rates(model, more) == rates(model, groups)
    assert all(torch.equal(before[k], v) for k, v in again.state_dict().items())
    Parametrization("mup", base, "adam", sigma=2.0).apply(
        model, lr=0.1, generator=torch.Generator().manual_seed(0), weight_decay=0.01
    )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    model[4].weight = torch.ones(5, 256)
    torch.testing.assert_close(model[4].weight, torch.ones(5, 256))


def test_spectral_rates_of_convolutions_and_vectors():
    model = nn.Sequential(nn.Conv2d(3, 12, 5), nn.Conv2d(12, 6, 1, groups=2), nn.ConvTranspose2d(6, 4, 2))
    found = {r.weight.name: r for r in Parametrization("spectral").rules(model)}
    assert found["0.weight"].lr == 12 / 75
    assert found["1.weight"].lr == 6 / 6
    assert found["2.weight"].lr == 4 / 24
    assert found["0.bias"].lr == 12
    assert found["0.weight"].std == pytest.approx((12 / 75) ** 0.5 / 75**0.5)
    adam = {r.weight.name: r.lr for r in Parametrization("spectral", optimizer="adam").rules(model)}
    assert adam["0.weight"] == 1 / 75
    assert adam["0.bias"] == 1


def test_trained_steps_are_equal_at_the_base_width():
    x = torch.randint(20, (32,), generator=torch.Generator().manual_seed(1))
    outputs = []
    for kind in ("mup", "standard"):
        rule = Parametrization(kind, network(16) if kind == "mup" else None, "sgd")
        model, groups = rule.apply(network(16), lr=0.05, generator=torch.Generator().manual_seed(2))
        tuner = torch.optim.SGD(groups)
        for _ in range(3):
            tuner.zero_grad()
            model(x).square().mean().backward()
            tuner.step()
        outputs.append(model(x).detach())
    torch.testing.assert_close(*outputs)


def test_tied_and_free_parameters():
    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embedding = nn.Embedding(11, width)
            self.head = nn.Linear(width, 11, bias=False)
            self.head.weight = self.embedding.weight
            self.scale = nn.Parameter(torch.tensor(1.0))

    with pytest.raises(ValueError, match="tied="):
        mup(Tied(32), Tied(8), lr=1.0, free=("scale",))
    with pytest.raises(ValueError, match="no rule"):
        mup(Tied(32), Tied(8), lr=1.0, tied=("head.weight",))
    model, groups = mup(Tied(32), Tied(8), lr=1.0, optimizer="sgd", tied=("head.weight",), free=("scale",))
    assert model.head.parametrizations.weight.original is model.embedding.weight
    torch.testing.assert_close(model.head.weight, model.embedding.weight / 4)
    assert sorted((g["lr"], len(g["params"])) for g in groups) == [(1.0, 1), (4.0, 1)]
    assert float(model.scale) == 1


def test_errors_say_how_to_mend_them():
    with pytest.raises(ValueError, match="no base shape"):
        mup(nn.Linear(4, 4), {"weight": (4, 4)}, lr=1.0)
    with pytest.raises(ValueError, match="same"):
        mup(nn.Linear(4, 4), {"weight": (4,), "bias": (4,)}, lr=1.0)
    with pytest.raises(ValueError, match="base="):
        Parametrization("mup")
    with pytest.raises(ValueError, match="kind"):
        Parametrization("other")
    with pytest.raises(ValueError, match="optimizer"):
        Parametrization("spectral", optimizer="lbfgs")
    for bad in (-1.0, 0.0, float("nan")):
        with pytest.raises(ValueError, match="lr="):
            spectral(nn.Linear(2, 2), lr=bad)
    with pytest.raises(ValueError, match="weight_decay"):
        spectral(nn.Linear(2, 2), lr=1.0, weight_decay=-1.0)
    with pytest.raises(ValueError, match="empty"):
        spectral(nn.Linear(0, 2), lr=1.0)
    with pytest.raises(ValueError, match="not yet initialized"):
        spectral(nn.LazyLinear(3), lr=1.0)
    with pytest.raises(ValueError, match="sigma"):
        spectral(nn.Linear(2, 2), lr=1.0, sigma=0)
    with pytest.raises(ValueError, match="needs a gradient"):
        spectral(nn.Linear(2, 2).requires_grad_(False), lr=1.0)
    with pytest.raises(ValueError, match="factor"):
        rules.Multiplier(0)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 2, bias=False))
    with pytest.raises(ValueError, match="several tensors"):
        mup(normed, nn.Linear(4, 2, bias=False), lr=1.0)
    doubled = nn.Linear(8, 2, bias=False)
    nn.utils.parametrize.register_parametrization(doubled, "weight", nn.Identity())
    with pytest.raises(ValueError, match="another kind"):
        mup(doubled, nn.Linear(4, 2, bias=False), lr=1.0)
    with pytest.raises(ValueError, match="delta="):
        shapes.weights(nn.Linear(4, 2), delta=nn.Linear(5, 2))
