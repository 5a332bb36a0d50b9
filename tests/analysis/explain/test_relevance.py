import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.analysis.explain.relevance import Rule, lrp, lrp_mode


def numbers(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def network(*, bias=True, seed=0):
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2, bias=bias), nn.ReLU(),
        nn.Flatten(), nn.Linear(3, 2, bias=bias),
    ).double()  # fmt: skip
    for k, p in enumerate(net.parameters()):
        p.data = numbers(*p.shape, seed=seed + k)
    return net.eval()


# relevances that zennit 0.5.1 gives for the network that `arithmetic` makes, for its first output and the picture
# that it makes: rows of four pixels
PEER = {
    "epsilon": [
        0.948247,
        -0.071264,
        0.398269,
        0.464622,
        0.372654,
        -0.653383,
        0.184888,
        1.068582,
        -0.012562,
        -0.548877,
        0.004371,
        1.292151,
        -0.015505,
        -0.51012,
        0.067295,
        0.789997,
    ],
    "gamma": [
        0.516627,
        0.035583,
        0.269242,
        0.408219,
        0.196882,
        -0.249835,
        0.151602,
        0.982806,
        -0.004338,
        -0.207403,
        0.003763,
        1.187555,
        -0.009594,
        -0.264472,
        0.047077,
        0.732751,
    ],
    "zplus": [
        0.11741,
        0.099019,
        0.116963,
        0.249206,
        0.065805,
        0.18604,
        0.095206,
        0.642455,
        0.008314,
        0.254191,
        0.003193,
        0.77358,
        0.001373,
        0.097769,
        0.024789,
        0.477537,
    ],
    "zbox": [
        0.110936,
        0.053599,
        0.186747,
        0.331088,
        -0.003905,
        -0.144925,
        0.217309,
        0.901694,
        -0.007409,
        -0.173042,
        0.130213,
        1.082588,
        0.03864,
        -0.255795,
        0.013592,
        0.696395,
    ],
    "flat": [
        0.061451,
        0.139282,
        0.303522,
        0.189869,
        -0.066626,
        -0.030787,
        0.587171,
        0.454886,
        -0.069336,
        0.018682,
        0.597789,
        0.507065,
        -0.089226,
        -0.079039,
        0.335828,
        0.317196,
    ],
}


def arithmetic(*shape, step):
    """Weights that need no random generator: the same in any program."""
    count = int(torch.tensor(shape).prod())
    return ((torch.arange(count, dtype=torch.float64) * step % 17) / 8.5 - 0.6).view(*shape)


def peer_network():
    net = network()
    for p, step in zip(net.parameters(), (5, 3, 7, 11, 13, 2)):
        p.data = arithmetic(*p.shape, step=step)
    return net, arithmetic(1, 1, 4, 4, step=9).abs()


RULES = {"epsilon": Rule.epsilon(0.1), "gamma": Rule.gamma(0.25), "zplus": Rule.zplus(),
         "zbox": Rule.zbox(0.0, 1.5), "flat": Rule.flat()}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_relevance_is_that_of_zennit(name):
    net, x = peer_network()
    first = RULES[name]
    rest = first if name in ("epsilon", "gamma", "zplus") else RULES["gamma"]
    found = lrp(net, x, torch.tensor([[1.0, 0.0]], dtype=torch.float64), {"0": first, "*": rest})
    torch.testing.assert_close(found.flatten(), torch.tensor(PEER[name], dtype=torch.float64), atol=1e-5, rtol=1e-5)


@settings(max_examples=8)
@given(
    gamma=st.sampled_from([0.0, 0.1, 0.5, 3.0]), first=st.sampled_from(["gamma", "zbox", "flat"]),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_relevance_sums_to_the_output_where_there_are_no_biases(gamma, first, seed):
    net, x = network(bias=False, seed=seed), numbers(1, 1, 4, 4, seed=seed).abs()
    with torch.no_grad():
        y = net(x)
    weights = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    rule = Rule.gamma(gamma) if first == "gamma" else RULES[first]
    found = lrp(net, x, weights, {"0": rule, "*": Rule.gamma(gamma)})
    torch.testing.assert_close(found.sum(), (weights * y).sum(), atol=1e-9, rtol=1e-7)
    with lrp_mode(net, {"*": Rule.gamma(gamma)}):
        torch.testing.assert_close(net(x.clone().requires_grad_()), y)


def test_a_linear_layer_by_hand():
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = torch.tensor([[2.0, -1.0, 1.0]])
    x, one = torch.tensor([[1.0, 1.0, 2.0]]), torch.ones(1, 1)
    torch.testing.assert_close(lrp(layer, x, one), torch.tensor([[2.0, -1.0, 2.0]]))
    # γ = 1: weights 4, −1, 2 make 7 of the output's 3
    torch.testing.assert_close(lrp(layer, x, one, {"": Rule.gamma(1.0)}), torch.tensor([[4.0, -1.0, 4.0]]) * 3 / 7)
    torch.testing.assert_close(lrp(layer, x, one, {"": Rule.zplus()}), torch.tensor([[1.5, 0.0, 1.5]]))
    torch.testing.assert_close(lrp(layer, x, one, {"": Rule.epsilon(3.0)}), torch.tensor([[1.0, -0.5, 1.0]]))
    torch.testing.assert_close(lrp(layer, x, one, {"": Rule.flat()}), torch.tensor([[1.0, 1.0, 1.0]]))
    # l = 0, h = 2: shares 2, 1 and 2
    torch.testing.assert_close(lrp(layer, x, one, {"": Rule.zbox(0.0, 2.0)}), torch.tensor([[1.2, 0.6, 1.2]]))


def test_padding_before_the_first_layer_takes_no_relevance():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, bias=False).double()

        def forward(self, x):
            return self.conv(F.pad(x, (1, 1, 1, 1)))

    torch.manual_seed(1)
    net, x = Padded().eval(), numbers(1, 1, 4, 4, seed=3)
    built_in = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False)).double().eval()
    built_in[0].weight.data = net.conv.weight.data
    ones = torch.ones(1, 2, 4, 4, dtype=torch.float64)
    for rule in (Rule.zbox(-1.0, 1.0), Rule.flat()):
        found = lrp(net, x, ones, {"conv": rule})
        torch.testing.assert_close(found.sum(), net(x).sum())
    torch.testing.assert_close(lrp(net, x, ones, {"conv": Rule.zbox(-1.0, 1.0)}).sum(), built_in(x).sum())


def test_rules_that_cannot_hold_are_refused():
    net, x, w = network(), numbers(1, 1, 4, 4, seed=1), torch.ones(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="must be zero or positive"):
        Rule.gamma(-0.5)
    with pytest.raises(ValueError, match="outside the bounds"):
        lrp(net, x, w, {"0": Rule.zbox(0.0, 0.5)})
    with pytest.raises(ValueError, match="the layer that reads the input"):
        lrp(net, x, w, {"3": Rule.flat()})
    with pytest.raises(ValueError, match="no layer with weights matches 'conv'"):
        lrp(net, x, w, {"conv": Rule.flat()})
    with pytest.raises(ValueError, match="fold it first"):
        lrp(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).double().eval(), x, w, {"0": Rule.gamma(0.1)})
    with pytest.raises(ValueError, match="training mode"):
        lrp(nn.Sequential(nn.Linear(4, 2), nn.Dropout()).double(), x, w)
    with pytest.raises(ValueError, match=r"weights of shape \(1, 3\)"):
        lrp(net, x, torch.ones(1, 3, dtype=torch.float64))
