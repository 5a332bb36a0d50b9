import pytest
import torch
from torch import nn

from gramian.nn.residual import Centred, ResidualBlock
from gramian.optim.parametrization import depth
from gramian.optim.parametrization.depth import DeepBlock, depth_check, depth_mup, diversity_exponent, stream


class Net(nn.Module):
    def __init__(self, width, blocks, layers=1):
        super().__init__()
        self.first = nn.Linear(4, width)

        def branch():
            return nn.Sequential(*(p for _ in range(layers) for p in (nn.Linear(width, width), Centred("abs"))))

        self.layers = nn.ModuleList(ResidualBlock(branch()) for _ in range(blocks))
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


def rate(groups, parameter):
    return next(g["lr"] for g in groups if any(p is parameter for p in g["params"]))


def test_width_and_depth_multiply_and_twice_is_once():
    for _ in range(2):
        model = Net(64, 16)
        for _ in range(2):
            model, groups = depth_mup(
                model, Net(16, 16), base_depth=4, lr=0.1, blocks="layers", multiplier=0.8, optimizer="adam",
                generator=torch.Generator().manual_seed(0),
            )  # fmt: skip
        assert [b.multiplier for b in model.layers] == [0.4] * 16
        assert rate(groups, model.layers[3].branch[0].weight) == pytest.approx(0.1 / 4 / 2)
        assert rate(groups, model.layers[3].branch[0].bias) == pytest.approx(0.1 / 2)
        assert rate(groups, model.first.weight) == 0.1
        assert model.last.parametrizations.weight[0].factor == 0.25
    _, groups = depth_mup(model, base_depth=4, lr=0.1, blocks="layers", optimizer="sgd", alpha=1)
    assert rate(groups, model.layers[0].branch[0].weight) == pytest.approx(0.4)
    assert model.layers[0].multiplier == 0.25


def test_deep_blocks_warn_and_plain_ones_do_not(recwarn):
    depth_mup(Net(8, 2), base_depth=2, lr=0.1, blocks="layers")
    assert not [w for w in recwarn if issubclass(w.category, DeepBlock)]
    with pytest.warns(DeepBlock, match="several matrices"):
        depth_mup(Net(8, 2, layers=2), base_depth=2, lr=0.1, blocks="layers")


def test_stream_is_what_flows_and_leaves_no_hook():
    model = Net(8, 3)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    states = stream(model, x, "layers")
    assert states.shape == (4, 5, 8)
    torch.testing.assert_close(states[0], model.first(x).detach())
    torch.testing.assert_close(model.last(states[-1]), model(x))
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_exponents_of_walks_that_are_known():
    steps = torch.randn(256, 4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(diversity_exponent(steps.cumsum(0)) - 0.5) < 0.02
    line = torch.arange(33, dtype=torch.float64)[:, None, None] * steps[:1]
    assert diversity_exponent(line) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="too few"):
        diversity_exponent(steps[:8])
    with pytest.raises(ValueError, match="positive"):
        diversity_exponent(torch.zeros(20, 2, 3))


def test_depth_check_measures_size_and_change():
    def make(blocks, seed):
        model, groups = depth_mup(
            Net(16, blocks), base_depth=2, lr=0.05, blocks="layers", optimizer="sgd",
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return model, torch.optim.SGD(groups)

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    rows = depth_check(make, (2, 4), [x], lambda m, a: m(a).square().mean(), steps=1, blocks="layers")
    assert [r["depth"] for r in rows] == [2, 4]
    model, tuner = make(2, 0)
    before = stream(model, x, "layers")[-1]
    model(x).square().mean().backward()
    tuner.step()
    after = stream(model, x, "layers")[-1]
    assert rows[0]["feature"] == pytest.approx(float(before.square().mean().sqrt()), rel=1e-5)
    assert rows[0]["change"] == pytest.approx(float((after - before).square().mean().sqrt()), rel=1e-3)
    with pytest.raises(ValueError, match="depths"):
        depth_check(make, (), [x], lambda m, a: m(a).sum())


def test_errors_say_how_to_mend_them():
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match="no submodule 'blocks'"):
        depth_mup(plain, base_depth=2, lr=0.1)
    plain.blocks = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="ResidualBlock"):
        depth_mup(plain, base_depth=2, lr=0.1)
    plain.blocks = nn.Sequential()
    with pytest.raises(ValueError, match="nothing"):
        depth_mup(plain, base_depth=2, lr=0.1)
    net = Net(8, 2)
    for settings, word in (
        ({"base_depth": 0}, "base_depth"), ({"base_depth": 1, "optimizer": "lbfgs"}, "optimizer"),
        ({"base_depth": 1, "alpha": -1}, "alpha"), ({"base_depth": 1, "multiplier": 0}, "multiplier"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            depth_mup(net, lr=0.1, blocks="layers", **settings)
    with pytest.raises(ValueError, match="lr="):
        depth_mup(net, lr=0, blocks="layers", base_depth=1)
    assert depth.depth_powers(0.5, "sgd")[1] == 0
