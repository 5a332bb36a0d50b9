"""The compiled grid recurrence as a torch operator with its backward (which cannot be differentiated again)."""

import typing

import torch
from torch import Tensor

from gramian.linalg.kernels import run_tasks
from gramian.linalg.scan.grid.grid_kernels import grid_backward, grid_forward


@typing.no_type_check
def _launch(kernel, *arguments):
    arrays = [t.detach().contiguous().numpy() if isinstance(t, Tensor) else t for t in arguments]
    run_tasks(kernel, arrays[0].shape[0], *arrays)


@torch.library.custom_op("gramian::grid_scan", mutates_args=())
def grid_scan_op(
    A1: Tensor, A2: Tensor, A3: Tensor, A4: Tensor, b1: Tensor, b2: Tensor, s1: Tensor, s2: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    states = torch.empty(b1.shape, dtype=b1.dtype), torch.empty(b1.shape, dtype=b1.dtype)
    if b1.numel():
        _launch(grid_forward, A1, A2, A3, A4, b1, b2, s1, s2, *states, reverse)
    return states


@grid_scan_op.register_fake
def _(A1, A2, A3, A4, b1, b2, s1, s2, reverse):
    return torch.empty_like(b1), torch.empty_like(b1)


@torch.library.custom_op("gramian::grid_scan_adjoint", mutates_args=())
def _adjoint_op(
    A1: Tensor, A2: Tensor, A3: Tensor, A4: Tensor, d1: Tensor, d2: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    reached = torch.empty(d1.shape, dtype=d1.dtype), torch.empty(d1.shape, dtype=d1.dtype)
    if d1.numel():
        _launch(grid_backward, A1, A2, A3, A4, d1, d2, *reached, reverse)
    return reached


@_adjoint_op.register_fake
def _(A1, A2, A3, A4, d1, d2, reverse):
    return torch.empty_like(d1), torch.empty_like(d1)


def _setup(ctx, inputs, output):
    A1, A2, A3, A4, _, _, s1, s2, ctx.reverse = inputs
    ctx.save_for_backward(A1, A2, A3, A4, s1, s2, *output)


def _backward(ctx, d1, d2):
    A1, A2, A3, A4, s1, s2, h1, h2 = ctx.saved_tensors
    g1, g2 = _adjoint_op(A1, A2, A3, A4, d1.contiguous(), d2.contiguous(), ctx.reverse)

    def earlier(start: Tensor, h: Tensor) -> Tensor:
        return torch.cat((start[:, :, None], h[:, :, :-1]), 2)

    def beside(h: Tensor) -> Tensor:
        edge = torch.zeros_like(h[:, :1])
        return torch.cat((h[:, 1:], edge), 1) if ctx.reverse else torch.cat((edge, h[:, :-1]), 1)

    in_time = (g1 * earlier(s1, h1), g1 * earlier(s2, h2))
    across = (g2 * beside(h1), g2 * beside(h2))
    return *in_time, *across, g1, g2, A1[:, :, 0] * g1[:, :, 0], A2[:, :, 0] * g1[:, :, 0], None


grid_scan_op.register_autograd(_backward, setup_context=_setup)
