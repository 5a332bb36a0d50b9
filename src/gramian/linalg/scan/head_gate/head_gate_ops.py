"""Matrix states with one gate a head as PyTorch operators: the compiled kernels behind `torch.library`.

Tensors come as (batch, heads, length, size) in any memory order with the size last; outputs lie as (batch, length,
heads, size), the order of the layers around them. Several heads of v may share one head of q and k.
"""

import typing

import torch
from torch import Tensor

from gramian.linalg.kernels import run_tasks, warmup
from gramian.linalg.scan.head_gate import head_gate_kernels as kernels

_TASKS = 16  # pieces of work to aim for, by shape alone, so that sums keep their order
_SMALL = 1 << 20  # products below which one thread is faster than two


@typing.no_type_check  # sizes are symbols under torch.compile
def _parts(q, v):
    """Into how many tasks the heads of one group are cut."""
    return max(1, min(v.shape[1] // q.shape[1], -(-_TASKS // max(1, q.shape[0] * q.shape[1]))))


@typing.no_type_check
def _flat(tensor):
    """The memory from the first number to the last, and the strides of batch, heads and length."""
    tensor = tensor.detach()
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        tensor = tensor.contiguous()
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.as_strided(tensor, (span,), (1,), tensor.storage_offset()).numpy(), tensor.stride()[:3]


@typing.no_type_check
def _run(kernel, q, k, v, log_g, chunk, flag, *tensors):
    """All tasks of one kernel."""
    batch, groups, length, key_size = q.shape
    heads, value_size = v.shape[1], v.shape[3]
    gates = v.new_zeros(1, 1, 1, 1) if log_g is None else log_g[..., None]
    arrays, strides = zip(*(_flat(t) for t in (q, k, v, gates)), strict=True)
    parts = _parts(q, v)
    run_tasks(
        kernel,
        batch * groups * parts,
        (batch, groups, heads, parts, length, key_size, value_size, chunk),
        strides,
        (log_g is not None, flag),
        *arrays,
        *(t.detach().contiguous().view(-1).numpy() for t in tensors),
        threads=1 if batch * heads * length * key_size * value_size < _SMALL else None,
    )


@typing.no_type_check
@torch.library.custom_op("gramian::head_gate_scan", mutates_args=(), device_types="cpu")
def scan_forward(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor | None, state: Tensor, chunk: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (batch, length, heads, value_size), last state, and the states before each chunk (none unless `keep`)."""
    y, last, kept = _outputs(q, v, state, chunk, keep)
    _run(kernels.forward, q, k, v, log_g, chunk, keep, state, y, last, kept)
    return y, last, kept


@typing.no_type_check  # sizes are symbols under torch.compile
def _outputs(q, v, state, chunk, keep):
    """What the forward pass writes."""
    batch, heads, length, value_size = v.shape
    chunks = -(-length // chunk) if keep else 0
    y = v.new_empty(batch, length, heads, value_size)
    return y, v.new_empty(state.shape), v.new_empty(batch, heads, chunks, q.shape[3], value_size)


@typing.no_type_check
@scan_forward.register_fake
def _(q, k, v, log_g, state, chunk, keep):
    return _outputs(q, v, state, chunk, keep)


@typing.no_type_check
@torch.library.custom_op("gramian::head_gate_scan_backward", mutates_args=(), device_types="cpu")
def scan_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dlast: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, log_g and the first state, whether they are wanted or not; v's lies as the outputs do."""
    dq, dk, dv, dlog_g, dstate = _gradients(q, v, kept, parts=_parts(q, v))
    last = dy.new_empty(0) if dlast is None else dlast
    _run(kernels.backward, q, k, v, log_g, chunk, dlast is not None, kept, dy, last, dq, dk, dv, dlog_g, dstate)
    return dq.sum(0), dk.sum(0), dv, dlog_g, dstate


@typing.no_type_check  # sizes are symbols under torch.compile
def _gradients(q, v, kept, parts):
    """What the backward pass writes."""
    batch, heads, length, value_size = v.shape
    dq, dk = (v.new_empty(parts, *q.shape) for _ in range(2))
    dv = v.new_empty(batch, length, heads, value_size)
    return dq, dk, dv, v.new_empty(batch, heads, length), v.new_empty(batch, heads, q.shape[3], value_size)


@typing.no_type_check
@scan_backward.register_fake
def _(q, k, v, log_g, kept, dy, dlast, chunk):
    dq, dk, *others = _gradients(q, v, kept, parts=1)
    return dq[0], dk[0], *others


@typing.no_type_check
def _setup(ctx, inputs, output):
    *tensors, ctx.chunk, keep = inputs
    if not keep:
        raise RuntimeError("a gradient of the scan is asked for, but its forward pass kept no states")
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


@typing.no_type_check
def _gradient(ctx, dy, dlast, dkept):
    q, k, v, log_g, state, kept = ctx.saved_tensors
    if dy is None:
        dy = v.new_zeros(v.shape[0], v.shape[2], v.shape[1], v.shape[3])
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # to be differentiated again
        return *_differentiable(ctx, q, k, v, log_g, state, dy, dlast), None, None
    dq, dk, dv, dlog_g, dstate = scan_backward(q, k, v, log_g, kept, dy, dlast, ctx.chunk)
    grads = (dq, dk, dv.transpose(1, 2), dlog_g, dstate)
    return *(g if wanted else None for g, wanted in zip(grads, ctx.needs_input_grad[:5], strict=True)), None, None


@typing.no_type_check
def _differentiable(ctx, q, k, v, log_g, state, dy, dlast):
    """The gradients through the chunk form in plain PyTorch."""
    from gramian.linalg.scan.matrix_state import scan_in_chunks

    y, last = scan_in_chunks(q, k, v, None if log_g is None else log_g[..., None], state, ctx.chunk)
    outputs, slopes = [y], [dy.transpose(1, 2)]
    if dlast is not None:
        outputs, slopes = [y, last], [*slopes, dlast]
    wanted = ctx.needs_input_grad[:5]
    inputs = [t for t, want in zip((q, k, v, log_g, state), wanted, strict=True) if want]
    found = iter(torch.autograd.grad(outputs, inputs, slopes, create_graph=True))
    return [next(found) if want else None for want in wanted]


scan_forward.register_autograd(_gradient, setup_context=_setup)


@warmup
@typing.no_type_check
def _warm():
    """Compile both kernels in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(1, 1, 1, 1, dtype=dtype)
        kept = scan_forward(x, x, x, x[..., 0], x, 1, True)[2]
        scan_backward(x, x, x, x[..., 0], kept, x, x, 1)
