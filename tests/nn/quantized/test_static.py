"""Layers on integers with fixed scales."""

import pytest
import torch

from gramian.linalg.factor.quant import symmetric
from gramian.linalg.factor.quant.observers import LargestMagnitude
from gramian.nn.quantized.static import QuantPoint, StaticConvolution, StaticLinear, simulate
from gramian.nn.state.convolution import ShortConvolution


def _point(x, bits=8):
    point = QuantPoint(LargestMagnitude(), bits)
    point.calibrating = True
    assert torch.equal(point(x), x)
    point.freeze()
    return point


def test_a_point_rounds_to_its_grid_and_keeps_codes():
    x = torch.randn(3, 5)
    point = _point(x)
    rounded = point(x)
    assert float((rounded - x).abs().max()) <= float(point.scale) / 2 + 1e-7
    assert torch.equal(point(rounded), rounded)
    kept = point.store(x)
    assert kept.dtype == torch.int8
    assert torch.equal(point.load(kept), rounded)


def test_a_point_without_a_scale_is_refused():
    point = QuantPoint(LargestMagnitude())
    with pytest.raises(ValueError, match="no scale"):
        point(torch.ones(2, 2))
    with pytest.raises(ValueError, match="no activations were seen"):
        point.freeze()


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        _point(torch.ones(1, 2))(torch.tensor([[float("nan"), 1.0]]))


@pytest.mark.parametrize(("bits", "group"), [(8, None), (8, 4), (4, 4), (4, 100), (3, None)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_its_dequantized_weight(bits, group, bias):
    weight, x = torch.randn(6, 10), torch.randn(2, 7, 10)
    offset = torch.randn(6) if bias else None
    codes, scales = symmetric.quantize_matrix(weight, bits, group)
    point = _point(x)
    layer = StaticLinear(codes, scales, bits, group, offset, point.scale)
    assert torch.equal(layer.codes, codes)
    grid = point(x)
    wanted = torch.nn.functional.linear(
        grid.double(), layer.weight.double(), None if offset is None else offset.double()
    )
    torch.testing.assert_close(layer(grid), wanted.float(), atol=1e-5, rtol=1e-5)
    simulate(layer)
    torch.testing.assert_close(layer(grid), wanted.float(), atol=1e-5, rtol=1e-5)
    floats = StaticLinear(codes, scales, bits, group, offset)
    torch.testing.assert_close(floats(x), torch.nn.functional.linear(x, layer.weight, offset))
    assert layer.nbytes == (60 if bits == 8 else -(-60 // 8) * bits) + 2 * scales.numel()


def test_scales_that_do_not_fit_are_refused():
    codes, scales = symmetric.quantize_matrix(torch.randn(6, 10), 8, 4)
    with pytest.raises(ValueError, match="scales of"):
        StaticLinear(codes, scales, 8, 5)


@pytest.mark.parametrize("parts", [None, torch.tensor([0, 0, 1, 2])])
def test_convolution_is_its_dequantized_weight(parts):
    conv = ShortConvolution(4, 3)
    x = torch.randn(2, 9, 4)
    point = _point(x)
    layer = StaticConvolution(conv.weight, conv.bias, point.scale, parts)
    grid = point(x).mT
    with torch.no_grad():
        conv.weight.copy_(layer.codes * layer.scales[:, None, None])
        wanted, _ = conv(grid)
    whole, carried = layer(grid, layer.initial_state(2))
    torch.testing.assert_close(whole, wanted, atol=1e-5, rtol=1e-5)
    first, state = layer(grid[..., :5], layer.initial_state(2))
    second, last = layer(grid[..., 5:], state)
    torch.testing.assert_close(torch.cat((first, second), -1), whole)
    assert torch.equal(last, carried)
    simulate(layer)
    torch.testing.assert_close(layer(grid, layer.initial_state(2))[0], wanted, atol=1e-5, rtol=1e-5)
    assert layer.codes.dtype == torch.int8
