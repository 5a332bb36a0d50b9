"""Gated linear attention, forward and backward: by chunks, pair by pair, as a loop, and Mamba-2's chunk scan."""

import torch
import torch.nn.functional as F

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg import scan

NAMES = ("q", "k", "v", "log_g")


def inputs(batch, heads, length, key_size, value_size, dtype=torch.float32):
    """q, k, v, log_g (temperature 16) and a gradient of the outputs."""
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(batch, heads, length, key_size, generator=g) for _ in range(2))
    v, dy = (torch.randn(batch, heads, length, value_size, generator=g) for _ in range(2))
    log_g = F.logsigmoid(torch.randn(batch, heads, length, key_size, generator=g)) / 16
    return [t.to(dtype) for t in (q * key_size**-0.5, k, v, log_g, dy)]


def forward_backward(function, tensors, dy):
    """A function that runs forward and backward once and returns outputs and gradients."""
    leaves = [t.requires_grad_() for t in tensors]

    def run():
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    return run


def ours(**size):
    *tensors, dy = inputs(**size)
    return forward_backward(scan.matrix_state_scan, tensors, dy)


def two_levels(**size):
    """Pairwise decays in blocks of 16."""
    *tensors, dy = inputs(**size)
    return forward_backward(lambda *t: scan.matrix_state_scan(*t, sub=16), tensors, dy)


def ours_head(**size):
    """One gate a head."""
    q, k, v, log_g, dy = inputs(**size)
    return forward_backward(scan.matrix_state_scan, [q, k, v, log_g[..., 0].clone()], dy)


def loop(dtype=torch.float32, **size):
    *tensors, dy = inputs(**size, dtype=dtype)
    return forward_backward(scan.matrix_state_scan_reference, tensors, dy)


def transformers(**size):
    """Mamba-2's chunk scan where no CUDA kernel is installed, in its own layout: one gate a head."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    q, k, v, log_g, dy = (t.transpose(1, 2).contiguous() for t in inputs(**size))
    rates = -torch.ones(q.shape[2])

    def chunk_scan(q, k, v, dt):
        return mamba2_chunk_scan(v / dt[..., None], dt, rates, k, q, 64)

    return forward_backward(chunk_scan, [q, k, v, -log_g[..., 0]], dy)


def accuracy():
    """Worst relative error over the outputs and all gradients, against the float64 loop."""
    size = {"batch": 1, "heads": 2, "length": 512, "key_size": 32, "value_size": 64}
    exact = loop(**size, dtype=torch.float64)()
    errors = {}
    for name, prepare in (("gramian, a gate a coordinate", ours), ("gramian, pairs in blocks of 16", two_levels)):
        found = prepare(**size)()
        worst = max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))
        errors[f"{name}: worst relative error of outputs and gradients"] = worst
    return errors


BENCHMARK = Benchmark(
    title="Matrix state scan, forward and backward, float32",
    contenders=(
        Contender("gramian, a gate a coordinate", ours),
        Contender("gramian, pairs in blocks of 16", two_levels, rounds=3),
        Contender("gramian, a gate a head", ours_head),
        Contender("transformers' Mamba-2, a gate a head", transformers, needs=("transformers",)),
        Contender("plain PyTorch loop", loop, size="small", rounds=3),
    ),
    sizes={
        "full": {"batch": 4, "heads": 4, "length": 2048, "key_size": 32, "value_size": 64},
        "small": {"batch": 4, "heads": 4, "length": 512, "key_size": 32, "value_size": 64},
        "tiny": {"batch": 1, "heads": 2, "length": 16, "key_size": 8, "value_size": 4},
    },
    rounds=5,
    accuracy=accuracy,
    notes=("The loop runs at a quarter of the length: its backward pass takes time quadratic in the length.",),
)
