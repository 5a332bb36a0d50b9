"""Projections as signs."""

import copy

import pytest
import torch
from torch import nn

from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.nn.quantized.scaled_sign import PackedSignLinear, SignLinear
from gramian.surgery.quantize import binary


def model():
    generator = torch.Generator().manual_seed(0)
    return Mamba2LM(20, channels=8, depth=2, state_size=4, head_size=4, generator=generator).eval()


def test_projections_become_signs_and_come_back():
    net = model()
    before = copy.deepcopy(net.state_dict())
    ids = torch.arange(10)[None]
    with torch.no_grad():
        plain = net(ids)
        handle = binary.binarize(net)
        assert len(handle.names) == 4
        assert all(isinstance(layer.mixer.in_proj, SignLinear) for layer in net.backbone.layers)
        rounded = net(ids)
        packed = copy.deepcopy(net)
        binary.pack(packed)
        assert isinstance(packed.backbone.layers[0].mixer.out_proj, PackedSignLinear)
        torch.testing.assert_close(packed(ids), rounded, atol=1e-5, rtol=1e-5)
        handle.undo()
        assert torch.equal(net(ids), plain)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    handle = binary.binarize(net)
    handle.merge()
    assert type(net.backbone.layers[0].mixer.in_proj) is nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(net(ids), rounded, atol=1e-5, rtol=1e-5)


def test_layers_can_be_left_out():
    net = model()
    assert binary.binarize(net, "*_proj", exclude="*.0.*").names == (
        "backbone.layers.1.mixer.in_proj", "backbone.layers.1.mixer.out_proj",
    )  # fmt: skip


def test_what_is_refused():
    with pytest.raises(ValueError, match="conv1d is a ShortConvolution; only linear"):
        binary.binarize(model(), "*conv1d")
    with pytest.raises(ValueError, match="no layer matches"):
        binary.binarize(model(), "*A_log")
    with pytest.raises(ValueError, match="no layer matches"):
        binary.pack(model())
    net = model()
    with torch.no_grad():
        net.backbone.layers[1].mixer.out_proj.weight[:, 3] = 0.25
    with pytest.raises(ValueError, match=r"layers\.1\.mixer\.out_proj: column 3"):
        binary.binarize(net)
    with pytest.raises(ValueError, match="NaN"):
        SignLinear(torch.full((2, 2), float("nan")))
