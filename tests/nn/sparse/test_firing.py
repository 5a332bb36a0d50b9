import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.nn.sparse.firing import MaskedConvBNReLU, MaskPredictor, firing_mask


def layer(inputs=3, outputs=8, *, bias=False, norm=True, activation=None, **settings):
    settings = settings or {"mass": 0.8}
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, stride=2, bias=bias).double()
    bn = nn.BatchNorm2d(outputs).double() if norm else nn.Identity()
    if norm:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    predictor = MaskPredictor(inputs, outputs).double()
    nn.init.normal_(predictor.linear.weight)
    return MaskedConvBNReLU(conv, bn, activation or nn.ReLU(), predictor, **settings)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_the_mask_is_the_smallest_that_holds_the_mass(peaks, mass):
    mask = firing_mask(torch.tensor([peaks], dtype=torch.float64)[:, :, None, None].expand(-1, -1, 2, 3), mass=mass)[0]
    on = sorted((p for p, m in zip(peaks, mask, strict=True) if m), reverse=True)
    off = [p for p, m in zip(peaks, mask, strict=True) if not m]
    total = sum(peaks)
    if total == 0:
        assert not on
        return
    assert sum(on) >= mass * total * (1 - 1e-12)
    assert sum(on[:-1]) < mass * total
    assert all(p > 0 for p in on)
    assert max(off, default=0) <= min(on)


def test_keep_takes_a_share_of_the_channels_and_no_zeros():
    peaks = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 0.0, 7.0, 0.0]])
    assert firing_mask(peaks, keep=0.5).tolist() == [[True, False, True, False], [False, False, True, False]]
    assert firing_mask(peaks, keep=0.3).sum(1).tolist() == [2, 1]
    assert firing_mask(peaks, keep=1).sum(1).tolist() == [4, 1]


def test_a_peak_is_of_magnitude_and_keeps_no_gradient():
    maps = torch.zeros(1, 2, 2, 2, requires_grad=True)
    with torch.no_grad():
        maps[0, 0, 1, 1], maps[0, 1, 0, 0] = -3.0, 1.0
    mask = firing_mask(maps, mass=0.5)
    assert mask.tolist() == [[True, False]]
    assert not mask.requires_grad


@pytest.mark.parametrize("settings", [{}, {"mass": 0.0}, {"mass": 1.1}, {"keep": 0.0}, {"mass": 0.5, "keep": 0.5}])
def test_shares_that_are_none(settings):
    with pytest.raises(ValueError, match="mass="):
        firing_mask(torch.ones(1, 2), **settings)
    with pytest.raises(ValueError, match="mass="):
        MaskedConvBNReLU(nn.Conv2d(1, 2, 1), nn.Identity(), nn.ReLU(), MaskPredictor(1, 2), **settings)


def test_a_grouped_convolution_is_refused():
    with pytest.raises(ValueError, match="2 groups"):
        MaskedConvBNReLU(nn.Conv2d(2, 2, 1, groups=2), nn.Identity(), nn.ReLU(), MaskPredictor(2, 2), mass=0.5)
    with pytest.raises(ValueError, match="pool="):
        MaskPredictor(1, 2, "median")


@pytest.mark.parametrize("options", [{"bias": True}, {"norm": False, "bias": True}, {"activation": nn.ReLU6()}, {}])
def test_one_image_is_gathered_to_the_same_result(options):
    m = layer(**options).eval()
    x = torch.randn(6, 3, 7, 6, dtype=torch.float64)
    x[1, 1] = 0
    x[2] = 0
    whole, record = m(x), m.fired
    for i in range(6):
        one = m(x[i : i + 1])
        assert torch.allclose(one, whole[i : i + 1], atol=1e-12)
        assert m.fired.macs.item() == record.macs[i] == 9 * 12 * record.inputs[i] * record.outputs[i]
    assert record.inputs.tolist() == [3, 2, 0, 3, 3, 3]
    assert m.dense_macs == 9 * 12 * 3 * 8
    assert 0 < record.outputs.sum() < 48


def test_nothing_on_is_zeros():
    m = layer().eval()
    nn.init.constant_(m.predictor.linear.bias, -100)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    assert m(x).shape == (1, 8, 3, 3)
    assert m(x).count_nonzero() == 0
    assert m.fired.macs.item() == 0


@pytest.mark.parametrize("mode", ["dense", "target"])
def test_modes_without_a_predictor(mode):
    m = layer().eval()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    dense = m.activation(m.norm(m.conv(x)))
    m.mode = mode
    mask = firing_mask(dense, mass=0.8) if mode == "target" else torch.ones(4, 8)
    assert torch.equal(m(x), dense * mask[:, :, None, None])
    assert bool((m.fired.agreement == 1).all()) == (mode == "target")


def gradients(**settings):
    m = layer(mass=0.8, **settings).train()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    out = m(x)
    weight, inputs = m.predictor.linear.weight, x
    task = torch.autograd.grad(out.square().sum(), [weight], allow_unused=True, retain_graph=True)[0]
    below = torch.autograd.grad(m.mask_loss, [inputs], allow_unused=True, retain_graph=True)[0]
    own = torch.autograd.grad(m.mask_loss, [weight])[0]
    assert own.abs().sum() > 0
    return task, below


def test_losses_are_decoupled_unless_asked_otherwise():
    assert gradients() == (None, None)
    assert gradients(straight_through=True)[0].abs().sum() > 0
    assert gradients(decoupled=False)[1].abs().sum() > 0


def test_the_mask_loss_is_the_cross_entropy_of_the_target():
    m = layer().train()
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    m(x)
    target = firing_mask(m.activation(m.norm(m.conv(x))), mass=0.8)
    chance = m.predictor(x).sigmoid()
    assert torch.allclose(m.mask_loss, -torch.where(target, chance, 1 - chance).log().mean())
    (group,) = m.predictor.parameter_groups(1e-3, 0.1)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (1e-3, 0.0, 2)
