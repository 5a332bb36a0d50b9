import copy

import pytest
import torch
from torch import nn

from gramian.linalg.factor import tensor as tensors
from gramian.models.vision.efficientnet_lite import SameConv2d
from gramian.surgery.adapters.apply import adapters
from gramian.surgery.adapters.tucker import MatricizedConv, TuckerAdapter, attach_tucker


def adapter(base, ranks, seed=0, **settings):
    layer = TuckerAdapter(base.double(), ranks, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.core.copy_(torch.randn(layer.core.shape, generator=generator, dtype=torch.float64))
    return layer


LAYERS = [
    (nn.Linear(6, 5), (2, 3), (4, 3, 6)),
    (nn.Conv1d(4, 6, 3, padding=1), (2, 3, 2), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (2, 3, 2, 3), (2, 4, 8, 9)),
    (nn.Conv2d(4, 6, 3, dilation=2, padding="same"), (2, 1, 2, 2), (2, 4, 8, 8)),
    (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (3, 3, 2, 2), (2, 4, 8, 8)),
    (nn.Conv2d(6, 9, (3, 2), stride=(1, 2), groups=3), (2, 2, 2, 1), (2, 6, 8, 8)),
    (nn.Conv2d(6, 6, 3, groups=6), (2, 1, 3, 3), (2, 6, 8, 8)),
    (nn.Conv3d(2, 3, 2), (2, 2, 2, 1, 2), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 3, 3, stride=2), (2, 3, 2), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 3, 2, 2), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2, dilation=2), (2, 2, 2, 1, 2), (2, 2, 4, 4, 4)),
    (SameConv2d(4, 6, 3, stride=2), (2, 3, 2, 2), (2, 4, 8, 8)),
]


@pytest.mark.parametrize(("base", "ranks", "shape"), LAYERS, ids=lambda v: type(v).__name__)
def test_the_branch_is_the_layer_with_the_changed_weight(base, ranks, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fresh = TuckerAdapter(base.double(), ranks)
    assert torch.equal(fresh(x), base(x))
    layer = adapter(base, ranks, scale=0.7)
    plain = copy.deepcopy(base)
    with torch.no_grad():
        plain.weight.add_(0.7 * tensors.tucker_to_tensor(layer.core, tuple(layer.factors)))
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.branch(x), layer.dense(x))
    torch.testing.assert_close(layer.merged()(x), plain(x))
    layer.merge()
    torch.testing.assert_close(layer(x), plain(x))
    layer.unmerge()
    if not isinstance(base, SameConv2d):  # that one reads batches alone
        torch.testing.assert_close(layer(x[0]), plain(x[0]))
    assert sum(p.numel() for p in layer.trained().values()) == tensors.tucker_size(base.weight.shape, ranks)


def test_full_ranks_hold_any_change():
    for base in (nn.Conv2d(4, 6, 3), nn.Linear(5, 7)):
        layer = TuckerAdapter(base, [min(d, base.weight.numel() // d) for d in base.weight.shape], scale=3)
        wanted = torch.randn(base.weight.shape, generator=torch.Generator().manual_seed(0))
        layer.set_delta(wanted)
        torch.testing.assert_close(layer.delta(), wanted, rtol=0, atol=1e-5)


def test_gradients():
    layer = adapter(nn.Conv2d(2, 4, 2, groups=2), (2, 1, 2, 1))
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(x, core, *factors):
        named = {"core": core, **{f"factors.{i}": f for i, f in enumerate(factors)}}
        return torch.func.functional_call(layer, named, (x,))

    assert torch.autograd.gradcheck(run, (x, layer.core, *layer.factors))


def test_dropout_acts_in_training_alone():
    layer = adapter(nn.Linear(6, 5), (2, 3), dropout=0.5)
    x = torch.ones(64, 6, dtype=torch.float64)
    layer.train()
    assert float(layer(x).detach().std(0).max()) > 0
    layer.eval()
    assert float(layer(x).detach().std(0).max()) < 1e-12


def test_attached_and_taken_out():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    x, bits = torch.randn(2, 1, 8, 8), copy.deepcopy(net.state_dict())
    before = net(x)
    attached = attach_tucker(net, "*", lambda name, shape: [min(2, d) for d in shape] if len(shape) == 4 else None)
    assert attached.names == ("0",)
    net(x).square().sum().backward()
    assert adapters(net)["0"].core.grad.abs().sum() > 0
    assert adapters(net)["0"].base.weight.grad is None
    attached.undo()
    assert torch.equal(net(x), before)
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())


def test_lora_of_the_matrix():
    base = nn.Conv2d(4, 6, 3, stride=2)
    layer, x = MatricizedConv(base, 2), torch.randn(2, 4, 9, 9)
    assert torch.equal(layer(x), base(x))
    with torch.no_grad():
        layer.B.normal_()
    torch.testing.assert_close(layer(x), layer.merged()(x))
    assert torch.linalg.matrix_rank(layer.delta().flatten(1)) == 2


def test_half_precision_and_what_is_refused():
    layer = TuckerAdapter(nn.Linear(6, 5).to(torch.bfloat16), (2, 2))
    assert layer.core.dtype == torch.float32
    assert layer(torch.ones(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
    conv = nn.Conv2d(4, 4, 3, groups=4)
    for ranks, message in (((2, 2), "one rank for each"), ((2, 2, 3, 3), "depthwise"), ((0, 1, 3, 3), "between 1")):
        with pytest.raises(ValueError, match=message):
            TuckerAdapter(conv, ranks)
    with pytest.raises(ValueError, match="dropout"):
        TuckerAdapter(conv, (1, 1, 1, 1), dropout=1.0)
    with pytest.raises(ValueError, match="scale"):
        TuckerAdapter(conv, (1, 1, 1, 1), scale=0)
    with pytest.raises(TypeError, match="LayerNorm"):
        TuckerAdapter(nn.LayerNorm(4), (1,))
    with pytest.raises(ValueError, match="rank"):
        MatricizedConv(conv, 9)
    with pytest.raises(TypeError, match="Linear"):
        MatricizedConv(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match="shape"):
        TuckerAdapter(conv, (1, 1, 1, 1)).set_delta(torch.zeros(2, 2))
