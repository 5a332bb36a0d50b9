import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.linalg.factor.quant import absmax
from gramian.nn.quantized.int8 import Int8Linear
from gramian.surgery.quantize.int8 import to_int8


def layer_and_input():
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 10), torch.randn(3, 5, 24)
    x[..., 7] *= 30
    return layer, x


def test_it_is_the_mixed_product_with_a_bias():
    dense, x = layer_and_input()
    layer = Int8Linear.from_float(dense)
    flat = x.reshape(-1, 24)
    expected = absmax.mixed_matmul(flat, layer.codes, layer.scales) + dense.bias
    assert torch.equal(layer(x).reshape(-1, 10), expected)
    assert (layer(x) - dense(x)).abs().max() < 0.2
    assert layer.codes.dtype == torch.int8
    assert layer.nbytes == 24 * 10 + 4 * 10


def test_keeping_the_floats_and_threshold_zero_is_the_float_layer():
    dense, x = layer_and_input()
    layer = Int8Linear.from_float(dense, threshold=0, keep_float=True)
    assert torch.allclose(layer(x), dense(x), atol=1e-5)
    assert torch.equal(layer.merged().weight, dense.weight)


def test_gradients_pass_to_the_input():
    dense, x = layer_and_input()
    layer = Int8Linear.from_float(dense)
    x.requires_grad_()
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand_as(x), atol=1e-5)


def test_files_hold_int8_and_come_back(tmp_path):
    dense, x = layer_and_input()
    layer = Int8Linear.from_float(dense, threshold=4.0)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    stored = load_file(tmp_path / "layer.safetensors")
    assert stored["codes"].dtype == torch.int8
    again = Int8Linear(24, 10, threshold=4.0)
    again.load_state_dict(stored)
    assert torch.equal(again(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.allclose(layer.merged()(x), x @ layer.weight.T + dense.bias, atol=1e-5)
    assert layer.half().codes.dtype == torch.int8


def test_a_model_is_swapped_merged_and_restored():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    before = model(x)
    handle = to_int8(model)
    assert handle.names == ("0", "2")
    assert (model(x) - before).abs().max() < 0.05
    handle.merge()
    assert type(model[0]) is nn.Linear
    handle.undo()
    assert torch.equal(model(x), before)


def test_what_cannot_be_is_refused():
    dense, x = layer_and_input()
    with pytest.raises(ValueError, match="threshold"):
        Int8Linear(3, 3, threshold=-1)
    with pytest.raises(TypeError, match="Conv2d"):
        Int8Linear.from_float.__func__(Int8Linear, nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="takes 24"):
        Int8Linear.from_float(dense)(x[..., :20])
    with pytest.raises(ValueError, match="NaN or infinity"):
        Int8Linear.from_float(dense)(x * torch.nan)
    with torch.no_grad():
        dense.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="0: NaN or infinity"):
        to_int8(nn.Sequential(dense))
