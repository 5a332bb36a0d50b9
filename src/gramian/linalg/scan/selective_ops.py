"""The selective scan as PyTorch operators: the compiled kernels behind `torch.library`, with their gradient.

`torch.compile` and `torch.export` see one opaque call with known output shapes. The gradient cannot be
differentiated again (`selective_scan_reference` can).
"""

import typing

import torch
from torch import Tensor

from gramian.linalg.kernels import run_tasks, warmup
from gramian.linalg.scan.selective_kernels import CHUNK, KERNELS
from gramian.linalg.simd import LANES

_TASKS = 16  # pieces of work to aim for: enough to balance some threads, few enough to keep partial sums small
_SMALL = 1 << 18  # states below which one thread is faster than two


@typing.no_type_check  # sizes are symbols under torch.compile
def _blocks(u, B):
    """Blocks of channels of one group."""
    return -(-(u.shape[1] // B.shape[1]) // LANES)


@typing.no_type_check  # sizes are symbols under torch.compile
def _kept_size(u, B):
    """Numbers kept by the forward pass for the backward pass."""
    batch, groups, state = B.shape[:3]
    return batch * groups * _blocks(u, B) * -(-u.shape[2] // CHUNK) * state * LANES


@typing.no_type_check
def _flat(tensor, like):
    """A flat numpy view of the tensor (an empty one for None)."""
    if tensor is None:
        return like.new_empty(0).numpy()
    return tensor.detach().contiguous().reshape(-1).numpy()


@typing.no_type_check
def _launch(name, signed, u, B, flags, *tensors):
    """Run one kernel over all tasks."""
    batch, channels, length = u.shape
    groups, state = B.shape[1:3]
    parts = _parts(u, B)
    work = batch * channels * length * state
    run_tasks(
        KERNELS["signed" if signed else "exp"][0 if name == "forward" else 1],
        batch * groups * parts,
        (batch, channels, length, state, groups, parts),
        flags,
        *(_flat(t, u) for t in tensors),
        threads=1 if work < _SMALL else None,
    )


@typing.no_type_check  # sizes are symbols under torch.compile
def _parts(u, B):
    """Into how many ranges the channels of one group are cut; by shape alone, so that sums keep their order."""
    wanted = -(-_TASKS // max(1, B.shape[0] * B.shape[1]))
    return max(1, min(wanted, _blocks(u, B) // 4))


@typing.no_type_check
@torch.library.custom_op("gramian::selective_scan", mutates_args=(), device_types="cpu")
def scan_forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    signed: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, last state, and the states kept for the backward pass (none unless `keep`)."""
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last = u.new_empty((*u.shape[:2], A.shape[1]))
    kept = u.new_empty(_kept_size(u, B) if keep else 0)
    flags = (D is not None, z is not None, dt_bias is not None, softplus, reverse, state is not None, keep)
    _launch("forward", signed, u, B, flags, u, dt, A, B, C, D, z, dt_bias, state, y, last, kept)
    return y, last, kept


@typing.no_type_check
@scan_forward.register_fake
def _(u, dt, A, B, C, D, z, dt_bias, state, softplus, signed, reverse, keep):
    kept = u.new_empty(_kept_size(u, B) if keep else 0)
    return torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty((*u.shape[:2], A.shape[1])), kept


@typing.no_type_check
@torch.library.custom_op("gramian::selective_scan_backward", mutates_args=(), device_types="cpu")
def scan_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
    softplus: bool,
    signed: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B, C, D, z, dt_bias and the first state, whether they are wanted or not."""
    batch, channels, _ = u.shape
    du, ddt = (torch.empty_like(u, memory_format=torch.contiguous_format) for _ in range(2))
    dz = torch.empty_like(du) if z is not None else u.new_empty(0)
    dA, dstate = (u.new_empty((batch, channels, A.shape[1])) for _ in range(2))
    dD, dbias = (u.new_empty((batch, channels)) for _ in range(2))
    dB, dC = (u.new_empty((_parts(u, B), *B.shape)) for _ in range(2))
    flags = (D is not None, z is not None, dt_bias is not None, softplus, reverse, dlast is not None, True)
    # fmt: off
    _launch(
        "backward", signed, u, B, flags, u, dt, A, B, C, D, z, dt_bias, kept, dy, dlast,
        du, ddt, dA, dB, dC, dD, dz, dbias, dstate,
    )
    # fmt: on
    return du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0), dstate


@typing.no_type_check
@scan_backward.register_fake
def _(u, dt, A, B, C, D, z, dt_bias, kept, dy, dlast, softplus, signed, reverse):
    def like(t):
        return torch.empty_like(t, memory_format=torch.contiguous_format)

    batch, channels, _ = u.shape
    dz = like(u) if z is not None else u.new_empty(0)
    per_channel = u.new_empty(channels)
    dstate = u.new_empty((batch, channels, A.shape[1]))
    return like(u), like(u), like(A), like(B), like(C), per_channel, dz, per_channel.clone(), dstate


@typing.no_type_check
def _setup(ctx, inputs, output):
    u, dt, A, B, C, D, z, dt_bias, state, *settings, keep = inputs
    if not keep:
        raise RuntimeError("a gradient of the selective scan is asked for, but its forward pass kept no states")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, dt, A, B, C, D, z, dt_bias, output[2])
    ctx.settings = settings


@typing.no_type_check
def _gradient(ctx, dy, dlast, dkept):
    u, dt, A, B, C, D, z, dt_bias, kept = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(u)
    grads = list(scan_backward(u, dt, A, B, C, D, z, dt_bias, kept, dy, dlast, *ctx.settings))
    grads = [g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad[:9], strict=True)]
    return (*grads, None, None, None, None)


scan_forward.register_autograd(_gradient, setup_context=_setup)


@warmup
@typing.no_type_check
def _warm():
    """Compile both kernels, for exp and signed decays, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        for signed in (False, True):
            u = torch.ones(1, 1, 1, dtype=dtype)
            A, B = u[0], u[None]
            kept = scan_forward(u, u, A, B, B, None, None, None, None, False, signed, False, True)[2]
            scan_backward(u, u, A, B, B, None, None, None, kept, u, None, False, signed, False)
