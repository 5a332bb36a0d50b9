import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gramian.linalg.factor.quant.normal_float import BlockFormat, round_blocks
from gramian.nn.quantized.packed import QuantizedLinear

FORMAT = BlockFormat(3, 16, 8, 4)


def parts(rank=2):
    generator = torch.Generator().manual_seed(0)
    weight, up = torch.randn(8, 32, generator=generator), torch.randn(8, rank, generator=generator)
    return weight, torch.randn(8, generator=generator), up, torch.randn(rank, 32, generator=generator)


def test_it_is_the_rounded_weight_and_the_factors():
    weight, bias, up, down = parts()
    layer = QuantizedLinear.from_float(weight, FORMAT, bias, up, down)
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(1))
    expected = x @ (round_blocks(weight, FORMAT) + up @ down).T + bias
    assert torch.allclose(layer(x), expected, atol=1e-4)
    assert torch.allclose(layer.merged()(x), expected, atol=1e-4)
    assert {n for n, _ in layer.named_parameters()} == {"up", "down", "bias"}
    layer(x).sum().backward()
    assert layer.up.grad.abs().sum() > 0


@pytest.mark.parametrize("rank", [0, 2])
def test_files_are_as_small_as_the_layer_and_come_back(rank, tmp_path):
    weight, bias, up, down = parts()
    factors = (up, down) if rank else (None, None)
    layer = QuantizedLinear.from_float(weight, FORMAT, bias, *factors)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    stored = load_file(tmp_path / "layer.safetensors")
    assert stored["codes"].dtype == torch.uint8
    again = QuantizedLinear(32, 8, FORMAT, rank)
    again.load_state_dict(stored)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert layer.nbytes == FORMAT.bits_per_number * 256 / 8 + 4


def test_what_cannot_be_is_refused():
    weight, bias, up, _ = parts()
    with pytest.raises(ValueError, match="both factors"):
        QuantizedLinear.from_float(weight, FORMAT, bias, up)
    with pytest.raises(ValueError, match="rank=9"):
        QuantizedLinear(32, 8, FORMAT, 9)
    with pytest.raises(ValueError, match="does not divide"):
        QuantizedLinear(30, 7, FORMAT)
    assert isinstance(QuantizedLinear(32, 8, FORMAT, bias=False).merged(), nn.Linear)
