"""Operations with an exact forward pass whose backward pass reads quantized memories of the activations.

Each takes the quantizer of what it keeps as its last argument. Weights, means and standard deviations are kept as
they are; ReLU keeps one bit for each entry, exactly. None of them can be differentiated twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gramian.surgery.mesa.store import Codes, Quantizer, pack, restore, unpack

__all__ = ["BatchNorm", "Convolution", "Gelu", "LayerNorm", "Linear", "MatMul", "Relu", "Softmax"]

aten = torch.ops.aten


def _keep(ctx: Any, tensors: list[tuple[Tensor, Quantizer]], *others: Tensor | None) -> None:
    kept: list[Tensor | None] = []
    ctx.kept = []
    for x, quantizer in tensors:
        kept += quantizer(x)
        ctx.kept.append((quantizer.bits, tuple(x.shape), x.dtype))
    ctx.save_for_backward(*kept, *others)


def _recall(ctx: Any) -> list[Any]:
    saved, found = list(ctx.saved_tensors), []
    for bits, shape, dtype in ctx.kept:
        found.append(restore(Codes(*saved[:3]), bits, shape, dtype))
        saved = saved[3:]
    return [*found, *saved]


class Linear(torch.autograd.Function):
    """`F.linear` that keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, quantizer: Quantizer) -> Tensor:
        _keep(ctx, [(x, quantizer)], weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = _recall(ctx)
        rows = gradient.reshape(-1, gradient.shape[-1])
        by_input = gradient @ weight if ctx.needs_input_grad[0] else None
        by_weight = rows.mT @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return by_input, by_weight, rows.sum(0) if ctx.needs_input_grad[2] else None, None


class Convolution(torch.autograd.Function):
    """`F.conv2d` that keeps its input; settings are stride, padding, dilation and groups."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: Any, quantizer: Quantizer
    ) -> Tensor:
        _keep(ctx, [(x, quantizer)], weight)
        ctx.settings = settings
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = _recall(ctx)
        stride, padding, dilation, groups = ctx.settings
        found = aten.convolution_backward(
            gradient, x, weight, [len(weight)], stride, padding, dilation, False, [0, 0], groups,
            list(ctx.needs_input_grad[:3]),
        )  # fmt: skip
        return *found, None, None


class MatMul(torch.autograd.Function):
    """A product of two batches of matrices of the same shape but for the last two axes; keeps both."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, first: Quantizer, second: Quantizer) -> Tensor:
        _keep(ctx, [(a, first), (b, second)])
        return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, b = _recall(ctx)
        return gradient @ b.mT, a.mT @ gradient, None, None


class Softmax(torch.autograd.Function):
    """`torch.softmax` that keeps its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, quantizer: Quantizer) -> Tensor:
        y = x.softmax(dim)
        _keep(ctx, [(y, quantizer)])
        ctx.dim = dim
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (y,) = _recall(ctx)
        return (gradient - (gradient * y).sum(ctx.dim, keepdim=True)) * y, None, None


class Gelu(torch.autograd.Function):
    """`F.gelu` that keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str, quantizer: Quantizer) -> Tensor:
        _keep(ctx, [(x, quantizer)])
        ctx.approximate = approximate
        return F.gelu(x, approximate=approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = _recall(ctx)
        return aten.gelu_backward(gradient, x, approximate=ctx.approximate), None, None


class Relu(torch.autograd.Function):
    """`F.relu` that keeps one bit for each entry: whether it was positive."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(pack((x > 0).flatten().to(torch.uint8), 1))
        return x.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (bits,) = ctx.saved_tensors
        return gradient * unpack(bits, 1, gradient.numel()).view(gradient.shape)


class LayerNorm(torch.autograd.Function):
    """`F.layer_norm` that keeps its input, and every position's mean and scale as they are."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float, quantizer: Quantizer
    ) -> Tensor:
        y, mean, scale = aten.native_layer_norm(x, shape, weight, bias, eps)
        _keep(ctx, [(x, quantizer)], mean, scale, weight, bias)
        ctx.shape = shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, mean, scale, weight, bias = _recall(ctx)
        wanted = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        found = aten.native_layer_norm_backward(
            gradient.contiguous(), x.contiguous(), ctx.shape, mean, scale, weight, bias, wanted
        )
        return found[0], None, found[1], found[2], None, None


class BatchNorm(torch.autograd.Function):
    """`F.batch_norm` in training that keeps its input, and every channel's mean and scale as they are."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, running: Any, momentum: float, eps: float,
        quantizer: Quantizer,
    ) -> Tensor:  # fmt: skip
        y, mean, scale = aten.native_batch_norm(x, weight, bias, *running, True, momentum, eps)
        _keep(ctx, [(x, quantizer)], mean, scale, weight)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, mean, scale, weight = _recall(ctx)
        wanted = list(ctx.needs_input_grad[:3])
        found = aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, scale, True, ctx.eps, wanted
        )  # fmt: skip
        return *found, None, None, None, None
