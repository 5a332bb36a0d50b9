"""The compiled Cauchy sums, and the spectrum made of them, as torch operators with gradients (first order only)."""

import math
import typing

import torch
from torch import Tensor

from gramian.linalg.kernels import run_tasks
from gramian.linalg.scan.dplr_kernels import cauchy_backward, cauchy_forward, spectrum_backward, spectrum_forward

_SMALL = 1 << 15  # poles times frequencies below which one thread is faster than two


def half_angles(length: int) -> tuple[Tensor, Tensor]:
    """Sin θ/2 and cos θ/2 for θ = 2πk/length, k = 0 … ⌊length/2⌋."""
    half = torch.arange(length // 2 + 1, dtype=torch.float64) * (math.pi / length)
    return torch.sin(half), torch.cos(half)


@typing.no_type_check
def _launch(kernel, length, weights, eigenvalues, dt, *rest):
    arrays = [t.detach().contiguous().numpy() for t in (weights, eigenvalues, dt, *half_angles(length))]
    work = eigenvalues.shape[0] * eigenvalues.shape[1] * (length // 2 + 1)
    threads = 1 if work < _SMALL else None
    run_tasks(kernel, dt.shape[0], *arrays, *(t.detach().contiguous().numpy() for t in rest), threads=threads)


@typing.no_type_check
def _gradients(kernel, weights, eigenvalues, dt, length, grad):
    gradients = tuple(torch.empty(t.shape, dtype=t.dtype) for t in (weights, eigenvalues, dt))
    _launch(kernel, length, weights, eigenvalues, dt, grad, *gradients)
    return gradients


@torch.library.custom_op("gramian::cauchy_sums", mutates_args=())
def cauchy_sums_op(weights: Tensor, eigenvalues: Tensor, dt: Tensor, length: int) -> Tensor:
    out = weights.new_empty((weights.shape[0], 4, length // 2 + 1, 2))
    _launch(cauchy_forward, length, weights, eigenvalues, dt, out)
    return out


@torch.library.custom_op("gramian::cauchy_sums_backward", mutates_args=())
def _cauchy_sums_backward_op(
    weights: Tensor, eigenvalues: Tensor, dt: Tensor, length: int, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(cauchy_backward, weights, eigenvalues, dt, length, grad)


@torch.library.custom_op("gramian::low_rank_spectrum", mutates_args=())
def low_rank_spectrum_op(weights: Tensor, eigenvalues: Tensor, dt: Tensor, length: int) -> Tensor:
    out = weights.new_empty((weights.shape[0], length // 2 + 1, 2))
    _launch(spectrum_forward, length, weights, eigenvalues, dt, out)
    return out


@torch.library.custom_op("gramian::low_rank_spectrum_backward", mutates_args=())
def _low_rank_spectrum_backward_op(
    weights: Tensor, eigenvalues: Tensor, dt: Tensor, length: int, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(spectrum_backward, weights, eigenvalues, dt, length, grad)


@cauchy_sums_op.register_fake
def _(weights, eigenvalues, dt, length):
    return weights.new_empty((weights.shape[0], 4, length // 2 + 1, 2))


@low_rank_spectrum_op.register_fake
def _(weights, eigenvalues, dt, length):
    return weights.new_empty((weights.shape[0], length // 2 + 1, 2))


@_cauchy_sums_backward_op.register_fake
@_low_rank_spectrum_backward_op.register_fake
def _(weights, eigenvalues, dt, length, grad):
    return torch.empty_like(weights), torch.empty_like(eigenvalues), torch.empty_like(dt)


def _setup(ctx, inputs, output):
    *tensors, ctx.length = inputs
    ctx.save_for_backward(*tensors)


def _sums_backward(ctx, grad):
    return *_cauchy_sums_backward_op(*ctx.saved_tensors, ctx.length, grad), None


def _spectrum_backward(ctx, grad):
    return *_low_rank_spectrum_backward_op(*ctx.saved_tensors, ctx.length, grad), None


cauchy_sums_op.register_autograd(_sums_backward, setup_context=_setup)
low_rank_spectrum_op.register_autograd(_spectrum_backward, setup_context=_setup)
