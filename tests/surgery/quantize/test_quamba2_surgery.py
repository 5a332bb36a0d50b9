"""Quamba2: Mamba-2 in few bits."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.models.language.mamba_lm import MambaLM
from gramian.nn.quantized.embedding import StaticEmbedding
from gramian.nn.quantized.mamba2 import QuantHead, QuantMamba2
from gramian.nn.quantized.static import StaticConvolution, StaticLinear
from gramian.nn.state.mamba2 import Mamba2
from gramian.surgery.quantize import quamba2
from gramian.surgery.quantize.clusters import Clusters, sort_and_cluster


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _model(channels=16, groups=2, **settings):
    model = Mamba2LM(
        50, channels, 2, state_size=4, head_size=4, num_groups=groups, generator=_seeded(), **settings
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=_seeded(5)))
    return model


def _ids(*shape):
    return torch.randint(50, shape, generator=_seeded(1))


def _orders(model):
    magnitudes = quamba2.channel_magnitudes(model, _ids(3, 20))
    return [sort_and_cluster(m, 2, 4, (2, 2)) for m in magnitudes]


@pytest.mark.parametrize("bias", [False, True])
def test_reordering_keeps_logits_and_steps(bias):
    model = _model(bias=bias)
    moved = copy.deepcopy(model)
    quamba2.reorder(moved, _orders(model))
    ids = _ids(2, 9)
    assert not torch.equal(moved.backbone.layers[0].mixer.A_log, model.backbone.layers[0].mixer.A_log)
    with torch.no_grad():
        wanted, states = model.read(ids)
        found, others = moved.read(ids)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            moved.step(ids[:, 0], others)[0], model.step(ids[:, 0], states)[0], atol=1e-5, rtol=1e-5
        )


def test_orders_that_break_the_layer_are_refused():
    model = _model()
    first, second = _orders(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="1 orders for 2 layers"):
        quamba2.reorder(model, [first])
    across = torch.tensor([4, 1, 2, 3, 0, 5, 6, 7])
    channels = torch.arange(32).view(8, 4)[across].flatten()
    with pytest.raises(ValueError, match="layer 1: head 4 would leave its SSD group"):
        quamba2.reorder(model, [first, replace(second, heads=across, channels=channels)])
    with pytest.raises(ValueError, match="leave its head"):
        quamba2.reorder(model, [replace(first, channels=torch.arange(32).roll(1)), second])
    twice = Clusters(torch.zeros(8, dtype=torch.long), torch.arange(32), torch.zeros(32, dtype=torch.long))
    with pytest.raises(ValueError, match="no permutation"):
        quamba2.reorder(model, [first, twice])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_magnitudes_are_the_largest_mean_over_texts_and_leave_no_hook():
    model, ids = _model(), _ids(3, 20)
    found = quamba2.channel_magnitudes(model, ids)
    layer = model.backbone.layers[0]
    with torch.no_grad():
        u = layer.norm(model.backbone.embeddings(ids))
        x = layer.mixer.coefficients(u, layer.mixer.conv1d.initial_state(3))[1]
    torch.testing.assert_close(found[0], x.flatten(2).abs().mean(1).amax(0), atol=1e-6, rtol=1e-5)
    assert not layer.mixer.conv1d._forward_hooks
    with pytest.raises(ValueError, match="no calibration text"):
        quamba2.channel_magnitudes(model, ids[:0])


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (4, 16), (16, 8)])
def test_the_copy_is_close_and_the_model_left_as_found(weight_bits, activation_bits):
    model = _model()
    before = copy.deepcopy(model.state_dict())
    small = quamba2.quantize(model, _ids(6, 32), weight_bits, activation_bits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    ids = _ids(2, 16)
    with torch.no_grad():
        wanted = model(ids)
        gap = float((small(ids) - wanted).norm() / wanted.norm())
        assert 0 < gap < (0.4 if weight_bits == 4 else 0.05)
        assert small.generate(ids, 3).shape == (2, 19)
    count = sum(isinstance(m, StaticLinear) for m in small.modules())
    assert count == (0 if weight_bits == 16 else 5)
    assert sum(isinstance(m, StaticConvolution) for m in small.modules()) == (2 if activation_bits == 8 else 0)
    assert isinstance(small.backbone.embeddings, nn.Embedding if weight_bits == 16 else StaticEmbedding)


def test_sixteen_bits_are_the_model():
    model, ids = _model(), _ids(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(quamba2.quantize(model, ids, 16, 16)(ids), model(ids), atol=1e-5, rtol=1e-5)


def test_a_mix_sets_each_layer():
    small = quamba2.quantize(_model(), _ids(4, 20), mix=[(8, 8), (4, 16)])
    first, second = (block.mixer for block in small.backbone.layers)
    assert (first.in_proj.bits, first.in_proj.input_scale is None) == (8, False)
    assert (second.in_proj.bits, second.in_proj.input_scale is None) == (4, True)
    assert bool(torch.isfinite(small(_ids(1, 5))).all())


def test_steps_pieces_and_the_whole_agree_where_states_stay_floats():
    small = quamba2.quantize(_model(), _ids(6, 32), keep_state=True).double()
    ids = _ids(2, 10)
    whole, last = small.read(ids)
    states = small.initial_states(2)
    for i in range(10):
        logits, states = small.step(ids[:, i], states)
        torch.testing.assert_close(logits, whole[:, i])
    torch.testing.assert_close(states[1].memory, last[1].memory)
    assert states[0].inputs.dtype == torch.int8


def test_states_are_kept_in_int8_and_steps_stay_near():
    small = quamba2.quantize(_model(), _ids(6, 32)).double()
    ids = _ids(2, 10)
    whole, states = small.read(ids)
    assert states[0].memory.dtype == torch.int8
    states, found = small.initial_states(2), []
    for i in range(10):
        logits, states = small.step(ids[:, i], states)
        found.append(logits)
    assert float((torch.stack(found, 1) - whole).norm() / whole.norm()) < 0.1


def test_scales_follow_clusters_groups_and_states():
    small = quamba2.quantize(_model(), _ids(6, 32), groups=(2, 2))
    points = small.backbone.layers[0].mixer.points
    assert points["x"].scale.shape == (32,)
    assert 2 <= points["x"].scale.unique().numel() <= 8
    assert points["B"].scale.view(2, 4).std(1).max() < 1e-9
    assert points["state"].scale.shape == (8 * 4 * 4,)
    assert points["mixed"].scale.unique().numel() == 3


def test_uncalibrated_layers_are_refused():
    layer = Mamba2(8, state_size=4, head_size=4, generator=_seeded())
    for activation_bits, wanted in ((8, "input: no activations"), (16, "no inputs were seen")):
        with pytest.raises(ValueError, match=wanted):
            QuantMamba2.prepare(layer, 4, activation_bits).freeze()
    new = QuantMamba2.prepare(layer, 8, 8)
    for point in new.points.values():
        point.calibrating = False
    with pytest.raises(ValueError, match="no scale"):
        new(torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="no activations"):
        QuantHead(nn.Linear(4, 4), 8, 8).freeze()
    with pytest.raises(ValueError, match="no calibration text"):
        quamba2.quantize(_model(), _ids(0, 8), groups=None)


def test_bad_settings_are_refused():
    model, ids = _model(), _ids(2, 8)
    with pytest.raises(ValueError, match="W5A8"):
        quamba2.quantize(model, ids, 5)
    with pytest.raises(ValueError, match="W4A4"):
        quamba2.quantize(model, ids, mix=[(4, 8), (4, 4)])
    with pytest.raises(ValueError, match="mix has 1 entries"):
        quamba2.quantize(model, ids, mix=[(4, 8)])
    with pytest.raises(ValueError, match="W5A8"):
        QuantMamba2.prepare(model.backbone.layers[0].mixer, 5, 8)
    with pytest.raises(ValueError, match="weight_bits=5"):
        quamba2.expected_bytes(model, 5)
    with pytest.raises(ValueError, match="hadamard=False does without"):
        quamba2.quantize(_model(14, 1), ids)
    with pytest.raises(TypeError, match="Mamba2LM"):
        quamba2.quantize(MambaLM(50, 16, 1), ids)
    with torch.no_grad():
        model.backbone.layers[1].mixer.in_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quamba2.quantize(model, ids, groups=None)


def test_a_width_without_a_hadamard_matrix_goes_unturned():
    small = quamba2.quantize(_model(14, 1), _ids(4, 20), hadamard=False)
    assert bool(torch.isfinite(small(_ids(1, 9))).all())
