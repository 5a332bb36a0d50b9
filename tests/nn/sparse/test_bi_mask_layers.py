import pytest
import torch

from gramian.nn.sparse.bi_mask import METHODS, BiMaskConv2d, BiMaskLinear


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_forward_and_gradients_of_a_linear_layer(method):
    layer, x = BiMaskLinear(8, 12, method=method, decay=0.5).double(), normal(2, 3, 8).requires_grad_()
    y = layer(x)
    forward, backward = layer.masks()
    w, g = layer.weight.detach(), normal(2, 3, 12, seed=1)
    assert torch.allclose(y, x @ (w * forward).T + layer.bias)
    of_input, of_weight = torch.autograd.grad((y * g).sum(), (x, layer.weight))
    assert torch.allclose(of_input, g @ (w * backward))
    assert torch.allclose(of_weight, g.flatten(0, 1).T @ x.flatten(0, 1) + 0.5 * w * ~forward)
    assert torch.equal(forward, backward) == (method != "bi-mask")


def test_with_one_mask_and_no_decay_the_convolution_is_torchs():
    layer, x = BiMaskConv2d(4, 8, 3, 2, 1, method="uni-directional", decay=0).double(), normal(2, 4, 7, 7)
    x.requires_grad_()
    weight = (layer.weight.detach() * layer.masks()[0]).requires_grad_()
    y, plain = layer(x), torch.nn.functional.conv2d(x, weight, layer.bias, 2, 1)
    assert torch.allclose(y, plain)
    ours = torch.autograd.grad(y.square().sum(), (x, layer.weight))
    theirs = torch.autograd.grad(plain.square().sum(), (x, weight))
    assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_order_changes_with_the_interval_and_not_in_evaluation():
    layer, x, orders = BiMaskLinear(8, 16, interval=2).double(), normal(3, 8), []
    for _ in range(4):
        layer(x)
        orders.append(layer.permutation.tolist())
    assert orders[0] == orders[1]
    assert orders[1] != orders[2]
    assert orders[2] == orders[3]
    assert 0.5 < layer.retained < 1
    layer.eval()(x)
    with torch.no_grad():
        layer.train()(x)
    assert layer.permutation.tolist() == orders[3]
    again = BiMaskLinear(8, 16).double()
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.masks()[1], layer.masks()[1])


@pytest.mark.parametrize("layer", [BiMaskLinear(8, 4), BiMaskConv2d(4, 4, 3, 1, 1, bias=False)])
def test_merged_is_the_layer(layer):
    x = normal(2, 8).float() if isinstance(layer, BiMaskLinear) else normal(2, 4, 5, 5).float()
    merged = layer.merged()
    with torch.no_grad():
        assert torch.allclose(merged(x), layer(x), atol=1e-6)
    assert int((merged.weight == 0).sum()) * 2 == merged.weight.numel()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kept": 5}, "pattern"),
        ({"group": 3}, "inputs"),
        ({"method": "both"}, "method"),
        ({"interval": 0}, "interval"),
        ({"candidates": 0}, "candidates"),
        ({"decay": -1.0}, "decay"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BiMaskLinear(8, 4, **settings)


def test_outputs_must_fit_too_unless_backward_is_dense():
    with pytest.raises(ValueError, match="outputs of 6"):
        BiMaskLinear(8, 6)
    assert BiMaskLinear(8, 6, method="uni-directional").masks()[0].sum() == 24
