import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gramian.nn.hyper import HyperNet, OutsideRange, encode, hypernetize

OUT = {"a.weight": (5, 3), "a.bias": (5,), "b.weight": (2, 5)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_encodings_have_constant_norm(values):
    g = torch.tensor(values, dtype=torch.float64)
    assert abs(float(encode(g).square().sum()) - len(values)) < 1e-12
    assert abs(float(encode(g, "z|1-z").sum()) - len(values)) < 1e-12
    assert encode(g, None) is g


def test_ordinary_hypernetwork_is_homogeneous_and_the_cured_one_is_not():
    g = torch.rand(1, 2, generator=generator())
    plain = HyperNet({"g": (2,)}, OUT, encoding=None, residual=False, generator=generator(1))
    full, half = plain(g=g), plain(g=g / 2)
    for name in OUT:
        torch.testing.assert_close(full[name], 2 * half[name], rtol=1e-4, atol=1e-5)
    cured = HyperNet({"g": (2,)}, OUT, generator=generator(1))
    assert not torch.allclose(cured(g=g)["a.weight"], 2 * cured(g=g / 2)["a.weight"])


def test_batches_and_shapes():
    net = HyperNet({"g": (2,), "h": ()}, OUT, generator=generator())
    g, h = torch.rand(4, 2), torch.rand(4)
    batch = net(g=g, h=h)
    for i in range(4):
        for name, value in net(g=g[i], h=h[i]).items():
            assert value.shape == OUT[name]
            torch.testing.assert_close(batch[name][i], value)


def test_zero_prediction_is_the_independent_network_bit_for_bit():
    weights = {n: torch.randn(s, generator=generator(3)) for n, s in OUT.items()}
    net = HyperNet.from_existing(weights, {"g": (1,)}, generator=generator())
    for name, value in net(g=torch.tensor([0.7])).items():
        assert torch.equal(value, weights[name])


def test_hypernetized_network_starts_as_the_original_and_per_sample_equals_a_loop():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    net = hypernetize(module, [r"2\..*", "0.weight"], {"g": (1,)}, generator=generator())
    x, g = torch.randn(8, 3), torch.rand(8, 1)
    torch.testing.assert_close(net(x, g=g[0]), module(x))
    names = {n for n, _ in net.named_parameters()}
    assert "base.0.bias" in names
    assert "base.0.weight" not in names
    with torch.no_grad():
        net.hypernet.layers[-1].weight.normal_(0, 0.3, generator=generator(5))
    loop = torch.cat([net(x[i : i + 1], g=g[i]) for i in range(8)])
    torch.testing.assert_close(net(x, g=g), loop, rtol=1e-5, atol=1e-5)
    net(x, g=g).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.hypernet.parameters())
    assert isinstance(module[0].weight, nn.Parameter)


def test_gradients():
    net = HyperNet({"g": (2,)}, {"w": (2, 2)}, hidden=(3,), generator=generator()).double()
    g = torch.rand(2, dtype=torch.float64, generator=generator(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: net(g=g)["w"], (g,))


def test_outputs_are_hyperlights_after_a_copy_of_the_weights():
    hyperlight = pytest.importorskip("hyperlight")
    theirs = hyperlight.HyperNet(input_shapes={"g": (3,)}, output_shapes=OUT, hidden_sizes=[16, 32])
    ours = HyperNet({"g": (3,)}, OUT, hidden=(16, 32))
    linears = [m for m in theirs.backbone.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for a, b in zip(ours.layers, linears, strict=True):
            a.weight.copy_(b.weight)
            a.bias.copy_(b.bias)
    g = torch.rand(4, 3, generator=generator())
    expected = theirs(g=g.clone())
    for name, value in ours(g=g).items():
        torch.testing.assert_close(value, expected[name])


def test_bad_input_is_refused():
    net = HyperNet({"g": (2,)}, OUT)
    g = torch.rand(2)
    for inputs in ({}, {"g": g, "h": g}, {"h": g}):
        with pytest.raises(ValueError, match="lack"):
            net(**inputs)
    with pytest.raises(ValueError, match="has shape"):
        net(g=torch.rand(3))
    with pytest.raises(ValueError, match="batches"):
        HyperNet({"g": (2,), "h": (2,)}, OUT)(g=g, h=g[None])
    with pytest.raises(ValueError, match="residual"):
        HyperNet({"g": (2,)}, OUT, output_bias=False)
    with pytest.raises(ValueError, match="no bias"):
        HyperNet({"g": (2,)}, OUT, residual=False, output_bias=False).set_independent({})
    with pytest.raises(ValueError, match="at least one"):
        HyperNet({}, OUT)
    with pytest.raises(ValueError, match="shape"):
        net.set_independent({n: torch.zeros(2) for n in OUT})
    with pytest.raises(ValueError, match="match no parameter"):
        hypernetize(nn.Linear(2, 2), "head", {"g": (1,)})
    with pytest.warns(OutsideRange, match=r"outside \[0, 1\]"):
        encode(torch.tensor([1.2]))
    with pytest.raises(ValueError, match="NaN"):
        encode(torch.tensor([float("nan")]))
