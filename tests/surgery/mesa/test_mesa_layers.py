import copy

import pytest
import torch
from torch import nn

from gramian.models.vision.deit import DeiT, MatMul
from gramian.models.vision.vit import TinyViT
from gramian.surgery.mesa.layers import MemorySaving, mesa, quantized_saves, saved_bytes

LAYERS = {
    "linear": (nn.Linear(6, 5), [(4, 3, 6)]),
    "linear of a table": (nn.Linear(6, 5, bias=False), [(4, 6)]),
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), [(3, 4, 7, 6)]),
    "layer norm": (nn.LayerNorm(6), [(4, 3, 6)]),
    "layer norm without weights": (nn.LayerNorm((3, 6), elementwise_affine=False), [(4, 3, 6)]),
    "batch norm": (nn.BatchNorm2d(4), [(3, 4, 5, 5)]),
    "batch norm of a table": (nn.BatchNorm1d(6, affine=False), [(9, 6)]),
    "gelu": (nn.GELU(), [(4, 3, 6)]),
    "gelu by tanh": (nn.GELU("tanh"), [(4, 6)]),
    "relu": (nn.ReLU(), [(4, 3, 7)]),
    "softmax": (nn.Softmax(-1), [(2, 3, 4, 4)]),
    "softmax over another axis": (nn.Softmax(1), [(2, 3, 4)]),
    "product": (MatMul(), [(2, 3, 4, 5), (2, 3, 5, 6)]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_every_layer_are_autograd_s(name):
    layer, shapes = LAYERS[name]
    model = nn.ModuleDict({"layer": copy.deepcopy(layer).double()}).train()
    plain = copy.deepcopy(model["layer"])
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    mesa(model, bits=16, stochastic=False)
    ours = model["layer"]
    assert isinstance(ours, MemorySaving)
    expected, got = plain(*inputs), ours(*inputs)
    assert torch.equal(expected, got)
    cotangent = torch.randn_like(got)
    wanted = torch.autograd.grad(expected, [*inputs, *plain.parameters()], cotangent)
    found = torch.autograd.grad(got, [*inputs, *ours.layer.parameters()], cotangent)
    for w, f in zip(wanted, found, strict=True):
        assert float((w - f).norm()) <= 1e-4 * float(w.norm())
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), ours.layer.buffers(), strict=True))
    ours.eval()
    assert torch.equal(ours(*inputs), plain.eval()(*inputs))


def test_swapping_and_back():
    model = DeiT(8, 4, channels=1, classes=3, width=8, depth=2, heads=2, neurons=16)
    names = list(dict(model.named_modules()))
    before = copy.deepcopy(model.state_dict())
    handle = mesa(model)
    assert len(handle.names) == 1 + 2 * (2 + 2 + 3 + 3) + 2
    with torch.no_grad():
        model.head.layer.weight.zero_()
    handle.undo()
    assert list(dict(model.named_modules())) == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    handle = mesa(model)
    with torch.no_grad():
        model.head.layer.weight.fill_(2.0)
    handle.merge()
    assert list(dict(model.named_modules())) == names
    assert bool((model.head.weight == 2).all())


def test_heads_have_ranges_of_their_own():
    x = torch.randn(2, 3, 4, 4)
    for groups, count in (("head", 3), ("tensor", 1)):
        model = nn.Sequential(nn.Softmax(-1)).train()
        mesa(model, groups=groups)
        model(x.clone().requires_grad_())
        assert len(model[0].quantizers[0].low) == count


def test_nothing_is_stored_without_a_gradient():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU())
    mesa(model)
    with torch.no_grad():
        model.train()(torch.randn(3, 4))
    model.eval()(torch.randn(3, 4))
    assert model[0].quantizers[0].low is None


def test_differentiating_twice_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU()).train()
    mesa(model)
    x = torch.randn(3, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_a_tensor_changed_in_place_afterwards_does_not_spoil_the_memory():
    model = nn.Sequential(nn.Linear(4, 4)).train()
    mesa(model, bits=16, stochastic=False)
    x = torch.randn(3, 4)
    y, kept = model(x), x.clone()
    x.zero_()
    y.sum().backward()
    assert torch.allclose(model[0].layer.weight.grad, kept.sum(0).expand(4, 4), atol=1e-3)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2)), {"bits": 3}, "bits=3"),
        (nn.Sequential(nn.Linear(2, 2)), {"groups": "row"}, "groups='row'"),
        (nn.Sequential(nn.Linear(2, 2)), {"channel_groups": 0}, "channel_groups=0"),
        (nn.Sequential(nn.Tanh()), {}, "no layer matches"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")), {}, "'same'"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), {}, "zeros"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), {}, "running statistics"),
    ],
)
def test_networks_that_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        mesa(model, **settings)


def test_groups_that_do_not_divide():
    model = nn.Sequential(nn.Linear(4, 4)).train()
    mesa(model, channel_groups=3)
    with pytest.raises(ValueError, match="do not divide"):
        model(torch.randn(2, 4))


def gradient(model, x, **settings):
    model.zero_grad()
    if settings:
        with quantized_saves(parameters=model.parameters(), **settings):
            value = model(x).square().sum()
    else:
        value = model(x).square().sum()
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_any_network_saves_in_few_bits():
    model, x = TinyViT((8, 8), (1, 8)), torch.rand(16, 1, 8, 8)
    value, exact = gradient(model, x)
    errors = []
    for bits in (16, 8, 4, 2):
        again, found = gradient(model, x, bits=bits, generator=torch.Generator().manual_seed(0))
        assert torch.equal(again, value)
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors == sorted(errors)
    assert errors[0] < 1e-3 < errors[1] < 0.1 < errors[3]
    with pytest.raises(ValueError, match="bits=5"), quantized_saves(5):
        pass


def test_bytes_are_counted_once_a_storage():
    x = torch.zeros(100, requires_grad=True)
    assert saved_bytes(lambda: x.exp().sum()) == 400
    assert saved_bytes(lambda: x.exp().exp().sum()) == 800
    layer = nn.Linear(10, 20)
    rows = torch.zeros(5, 10)
    assert saved_bytes(lambda: layer(rows).sum(), layer.parameters()) == 200
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 20)).train()
    plain = saved_bytes(lambda: model(rows).sum(), model.parameters())
    assert plain == 4 * (50 + 5 * 64)
    mesa(model)
    ours = saved_bytes(lambda: model(rows).sum(), model.parameters())
    assert ours == (50 + 8) + 5 * 64 // 8 + (5 * 64 + 8)
