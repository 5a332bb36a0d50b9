"""A linear layer of SmolLM2's MLP in int8 with outliers in floats, against float32 and the integer loop."""

import torch
from torch import nn

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg.factor.quant import absmax
from gramian.nn.quantized.int8 import Int8Linear


def layer_and_input(tokens, inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    layer, x = nn.Linear(inputs, outputs, bias=False), torch.randn(tokens, inputs, generator=generator)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
    x[:, 5] *= 20
    return layer, x


def mixed(**size):
    layer, x = layer_and_input(**size)
    quantized = Int8Linear.from_float(layer)

    def call():
        with torch.no_grad():
            return quantized(x)

    return call


def float32(**size):
    layer, x = layer_and_input(**size)

    def call():
        with torch.no_grad():
            return layer(x)

    return call


def product(how):
    def prepare(**size):
        layer, x = layer_and_input(**size)
        (a, _), (b, _) = absmax.quantize_rows(x), absmax.quantize_rows(layer.weight.detach())
        return lambda: absmax.int8_matmul(a, b, how)

    return prepare


def error():
    size = {"tokens": 256, "inputs": 576, "outputs": 1536}
    exact, found = float32(**size)(), mixed(**size)()
    return {"relative error of the int8 layer": float((found - exact).norm() / exact.norm())}


BENCHMARK = Benchmark(
    title="A linear layer of 576 → 1536, 256 tokens",
    contenders=(
        Contender("Int8Linear", mixed),
        Contender("float32 layer", float32),
        Contender("int8 product alone, float slices", product("float")),
        Contender("int8 product alone, torch._int_mm", product("integer"), rounds=3),
    ),
    sizes={
        "full": {"tokens": 256, "inputs": 576, "outputs": 1536},
        "tiny": {"tokens": 4, "inputs": 16, "outputs": 8},
    },
    rounds=9,
    accuracy=error,
    notes=(
        "Integers are faster than floats only on processors with instructions for them (VNNI, AMX); torch._int_mm is a "
        "plain loop elsewhere, and Int8Linear then multiplies exactly in float32 slices.",
    ),
)
