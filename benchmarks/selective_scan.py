"""The selective scan, forward and backward, against mambapy's parallel scan and step-by-step loops."""

import torch

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg import scan

NAMES = ("outputs", "u", "dt", "A", "B", "C", "D")


def inputs(batch, channels, length, state, dtype=torch.float32):
    """u, dt, A, B, C, D as at the start of Mamba's training, and a gradient of the outputs."""
    g = torch.Generator().manual_seed(0)
    u = torch.randn(batch, channels, length, generator=g)
    dt = torch.exp(torch.rand(batch, channels, length, generator=g) * 4.6 - 6.9)  # 0.001 … 0.1
    A = -torch.arange(1.0, state + 1).repeat(channels, 1)
    B = torch.randn(batch, state, length, generator=g)
    C = torch.randn(batch, state, length, generator=g)
    D = torch.ones(channels)
    dy = torch.randn(batch, channels, length, generator=g)
    return [t.to(dtype) for t in (u, dt, A, B, C, D, dy)]


def forward_backward(function, tensors, dy):
    """A function that runs forward and backward once and returns outputs and gradients."""
    leaves = [t.requires_grad_() for t in tensors]

    def run():
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    return run


def ours(**size):
    *tensors, dy = inputs(**size)
    return forward_backward(scan.selective_scan, tensors, dy)


def oracle(**size):
    *tensors, dy = inputs(**size, dtype=torch.float64)
    return forward_backward(scan.selective_scan_reference, tensors, dy)


def torch_loop(**size):
    *tensors, dy = inputs(**size)
    return forward_backward(scan.selective_scan_reference, tensors, dy)


def sliced_loop(**size):
    """The loop as it is usually written: whole tensors of states, sliced at each step, quadratic backward."""

    def scan_by_slices(u, dt, A, B, C, D):
        decay = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
        drive = torch.einsum("bdl,bnl,bdl->bdln", dt, B, u)
        state, outputs = A.new_zeros(u.shape[0], *A.shape), []
        for t in range(u.shape[2]):
            state = decay[:, :, t] * state + drive[:, :, t]
            outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
        return torch.stack(outputs, 2) + u * D[:, None]

    *tensors, dy = inputs(**size)
    return forward_backward(scan_by_slices, tensors, dy)


def mambapy(**size):
    """Its own selective scan, on tensors in its own layout (batch, length, channels)."""
    from mambapy.mamba import MambaBlock

    u, dt, A, B, C, D, dy = inputs(**size)
    u, dt, B, C, dy = (t.mT.contiguous() for t in (u, dt, B, C, dy))
    return forward_backward(lambda *t: MambaBlock.selective_scan(None, *t), [u, dt, A, B, C, D], dy)


def transformers(**size):
    """The scan that its Mamba falls back to where no CUDA kernel is installed."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    *tensors, dy = inputs(**size)
    return forward_backward(lambda u, dt, A, B, C, D: mamba_selective_scan(u, dt, A, B, C, D), tensors, dy)


def accuracy():
    """Worst relative error over the outputs and all gradients, against the float64 loop."""
    size = {"batch": 2, "channels": 48, "length": 1024, "state": 16}
    exact = oracle(**size)()
    errors = {}
    for contender in (BENCHMARK.contenders[0], BENCHMARK.contenders[1]):
        if contender.missing() is None:
            found = contender.prepare(**size)()
            found = [f.mT if f.shape != e.shape else f for f, e in zip(found, exact, strict=True)]
            worst = max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))
            errors[f"{contender.name}: worst relative error of outputs and gradients"] = worst
    return errors


BENCHMARK = Benchmark(
    title="Selective scan, forward and backward, float32",
    contenders=(
        Contender("gramian", ours),
        Contender("mambapy pscan", mambapy, needs=("mambapy",)),
        Contender("transformers, eager", transformers, needs=("transformers",), size="small", rounds=1),
        Contender("plain PyTorch loop", torch_loop, size="small", rounds=3),
        Contender("plain PyTorch loop over slices", sliced_loop, size="sliced", rounds=1),
    ),
    sizes={
        "full": {"batch": 4, "channels": 1536, "length": 1024, "state": 16},
        "small": {"batch": 1, "channels": 1536, "length": 256, "state": 16},
        "sliced": {"batch": 4, "channels": 1536, "length": 256, "state": 16},
        "tiny": {"batch": 1, "channels": 16, "length": 16, "state": 2},
    },
    rounds=7,
    accuracy=accuracy,
    notes=("The loops run at the small size: their backward pass is too slow for the full one.",),
)
