"""The short causal convolution as a PyTorch operator: the compiled kernels behind `torch.library`, with their gradient.

A gradient that shall be differentiated again is taken through the plain form.
"""

import typing

import torch
from torch import Tensor

from gramian.linalg.kernels import run_tasks, warmup
from gramian.linalg.signal import short_convolution_kernels as kernels

_SMALL = 1 << 16  # numbers below which one thread is faster than two


@typing.no_type_check
def _arguments(x, weight, bias, state, silu):
    """What both kernels take: sizes, strides, flags and flat arrays; rows of x may lie apart."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    if x.stride(2) != 1 and channels > 1:
        x = x.contiguous()
    flat = torch.as_strided(x.detach(), (_span(x),), (1,), x.storage_offset())
    if bias is None:
        bias = x.new_empty(0)
    flats = [flat, weight.detach().mT.contiguous().view(-1), bias.detach().contiguous()]
    flats.append(state.detach().mT.contiguous().view(-1))
    sizes = (batch, length, channels, width)
    return sizes, (x.stride(0), x.stride(1)), (bias.numel() > 0, silu), *(t.numpy() for t in flats)


@typing.no_type_check
def _span(x):
    """Numbers from the first element to the last, both counted."""
    return sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1


@typing.no_type_check
def _run(kernel, x, *arguments):
    """All tasks of one kernel."""
    tasks = x.shape[0] * -(-x.shape[1] // kernels.SEGMENT)
    run_tasks(kernel, tasks, *arguments, threads=1 if x.numel() < _SMALL else None)


@typing.no_type_check
@torch.library.custom_op("gramian::short_convolution", mutates_args=(), device_types="cpu")
def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, silu: bool) -> Tensor:
    """Outputs (batch, length, channels)."""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _run(kernels.forward, x, *_arguments(x, weight, bias, state, silu), y.view(-1).numpy())
    return y


@typing.no_type_check
@convolve.register_fake
def _(x, weight, bias, state, silu):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@typing.no_type_check
@torch.library.custom_op("gramian::short_convolution_backward", mutates_args=(), device_types="cpu")
def convolve_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, dy: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the carried inputs, whether they are wanted or not."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    tasks = batch * -(-length // kernels.SEGMENT)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dweight, dbias = x.new_empty(tasks, width, channels), x.new_empty(tasks, channels)
    dstate = x.new_empty(batch, width - 1, channels)
    outputs = (t.view(-1).numpy() for t in (dy.detach().contiguous(), dx, dweight, dbias, dstate))
    _run(kernels.backward, x, *_arguments(x, weight, bias, state, silu), *outputs)
    return dx, dweight.sum(0).mT.contiguous(), dbias.sum(0), dstate.mT.contiguous()


@typing.no_type_check
@convolve_backward.register_fake
def _(x, weight, bias, state, dy, silu):
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(weight), x.new_empty(x.shape[2]), state.new_empty(state.shape)


@typing.no_type_check
def _setup(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


@typing.no_type_check
def _gradient(ctx, dy):
    tensors = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:4]
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to be differentiated again
        from gramian.linalg.signal.short_convolution import short_convolution_reference

        y = short_convolution_reference(*tensors, silu=ctx.silu)
        inputs = [t for t, want in zip(tensors, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
        return *(next(found) if want else None for want in wanted), None
    found = convolve_backward(*tensors, dy, ctx.silu)
    return *(grad if want else None for grad, want in zip(found, wanted, strict=True)), None


convolve.register_autograd(_gradient, setup_context=_setup)


@warmup
@typing.no_type_check
def _warm():
    """Compile both kernels in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(1, 2, 1, dtype=dtype)
        weight, state = x.mT[0], x.mT[:, :, :1]
        convolve(x, weight, None, state, True)
        convolve_backward(x, weight, None, state, x, True)
