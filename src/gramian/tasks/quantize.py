"""Quantize a model: the same network in fewer bits a weight.

The data are a model: a bundled network (smollm2-135m, all-minilm-l6-v2), or a Hugging Face folder of yours.
``--set text=FILE`` is a text of yours to measure on.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gramian.linalg.factor.quant.normal_float import BlockFormat
from gramian.models.opening import Opened
from gramian.nn.quantized.int8 import Int8Linear
from gramian.nn.quantized.packed import QuantizedLinear
from gramian.surgery.quantize import lq_lora
from gramian.surgery.swap import swap
from gramian.tasks.support.contract import Method
from gramian.tasks.support.model_change import ModelProblem, Subject, changing, evaluate, load_subject, predict

__all__ = ["BASELINES", "COST", "DEFAULT", "HEADLINE", "METHODS", "METRICS", "TITLE", "evaluate", "load", "predict"]

TITLE = "Quantize a model"
HEADLINE = "cosine"
METRICS = {"cosine": "higher"}
DEFAULT = "all-minilm-l6-v2"
COST = "bytes"


def load(data: str, target: str | None = None, *, text: str = "", factory: str = "", rank: int = 16) -> ModelProblem:
    """Open the model.

    Args:
        data: the model.
        text: a text file to calibrate and measure on; the bundled text without it.
        factory: for a file of weights: package.module:function that builds the network.
        rank: of the factors that LQ-LoRA keeps beside the codes.

    Raises:
        ValueError: a target, a rank below one, or no such model.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: a model has no columns")
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    return load_subject(data, text=text, factory=factory, rank=rank)


def _int8(threshold: float) -> Any:
    def change(opened: Opened, subject: Subject, seed: int) -> None:
        swap(opened.model, subject.layers, lambda name, layer: Int8Linear.from_float(layer, threshold), nn.Linear)

    return change


def _format(bits: int, numbers: int) -> BlockFormat:
    """Blocks of 64 and scale blocks of 256 where they divide the matrix, else the largest powers of two that do."""
    block = math.gcd(64, numbers)
    return BlockFormat(bits=bits, block=block, scale_block=math.gcd(256, numbers // block))


def _normal_float(bits: int) -> Any:
    def change(opened: Opened, subject: Subject, seed: int) -> None:
        def replace(name: str, layer: nn.Module) -> nn.Module:
            weight = layer.weight.detach()  # type: ignore[operator]
            return QuantizedLinear.from_float(weight, _format(bits, weight.numel()), layer.bias)  # type: ignore[arg-type]

        swap(opened.model, subject.layers, replace, nn.Linear)

    return change


def _lq_lora(bits: int) -> Any:
    def change(opened: Opened, subject: Subject, seed: int) -> None:
        def replace(name: str, layer: nn.Module) -> nn.Module:
            weight = layer.weight.detach()  # type: ignore[operator]
            fmt = _format(bits, weight.numel())
            rank = min(subject.options["rank"], *weight.shape)
            found = lq_lora.lq_decompose(weight, rank, fmt, generator=torch.Generator().manual_seed(seed))
            return QuantizedLinear.from_float(found.residual, fmt, layer.bias, found.up, found.down)

        swap(opened.model, subject.layers, replace, nn.Linear)

    return change


def _method(change: Any, summary: str, paper: str | None = None) -> Method:
    return Method(changing(change), summary, paper, needs=("language",))


METHODS = {
    "llm-int8": _method(_int8(6.0), "8 bits a weight, outlier features in floats", "llm_int8"),
    "lq-lora-4": _method(_lq_lora(4), "4-bit NormalFloat beside two factors that take up its error", "lq_lora"),
    "lq-lora-3": _method(_lq_lora(3), "the same with 3 bits", "lq_lora"),
}
BASELINES = {
    "int8": _method(_int8(math.inf), "8 bits a weight and a token, rounded to nearest"),
    "nf4": _method(_normal_float(4), "4-bit NormalFloat blocks, rounded to nearest"),
    "nf3": _method(_normal_float(3), "the same with 3 bits"),
}
