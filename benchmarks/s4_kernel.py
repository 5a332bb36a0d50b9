"""The S4 convolution kernel, forward and backward: the compiled Cauchy sums against a dense Cauchy matrix in torch."""

import torch

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg import scan

NAMES = ("kernel", "Λ", "P", "B", "C", "dt")


def inputs(channels, states, length, double=False):
    """Λ, P, B, C (one of each conjugate pair) and dt as at the start of a training, and a gradient of the kernel."""
    g = torch.Generator().manual_seed(0)
    half = states // 2
    kind = torch.complex128 if double else torch.complex64
    eigenvalues = torch.complex(
        torch.full((channels, half), -0.5), torch.pi * torch.arange(1.0, half + 1).expand(channels, half)
    )
    P, B, C = (torch.complex(*torch.randn(2, channels, half, generator=g)) for _ in range(3))
    dt = torch.exp(torch.rand(channels, generator=g) * 4.6 - 6.9)  # 0.001 … 0.1
    leaves = [t.to(kind).requires_grad_() for t in (eigenvalues, 0.5 * P, B, C)]
    real = torch.float64 if double else torch.float32
    return [*leaves, dt.to(real).requires_grad_()], torch.randn(channels, length, generator=g).to(real)


def forward_backward(function, leaves, gradient, length):
    """A function that returns the kernel and all gradients."""

    def run():
        kernel = function(*leaves, length)
        return [kernel.detach(), *torch.autograd.grad(kernel, leaves, gradient)]

    return run


def ours(double=False, **size):
    """C is taken as folded for this length, as a layer keeps it."""
    leaves, gradient = inputs(**size, double=double)

    def kernel(eigenvalues, P, B, C, dt, length):
        return scan.lti_kernel_dplr(eigenvalues, P, P, B, C, dt, length, folded=True)

    return forward_backward(kernel, leaves, gradient, size["length"])


def dense(double=False, **size):
    """Every entry 1/(g(z) − λ) at once, as the published implementations do without a compiled extension."""
    leaves, gradient = inputs(**size, double=double)

    def kernel(eigenvalues, P, B, C, dt, length):
        angles = 2 * torch.pi * torch.arange(length // 2 + 1, dtype=torch.float64) / length
        z = torch.polar(torch.ones_like(angles), -angles).to(eigenvalues.dtype)
        nodes = 2 * (1 - z) / dt[:, None]  # g(z) (1 + z), which is finite at z = −1
        matrix = 1 / (nodes[:, None] - (1 + z) * eigenvalues[..., None])
        mirrored = 1 / (nodes[:, None] - (1 + z) * eigenvalues.conj()[..., None])

        def sums(weights):
            return (weights[..., None] * matrix).sum(1) + (weights.conj()[..., None] * mirrored).sum(1)

        Q = P.conj()
        c_b, c_p, q_b, q_p = sums(C * B), sums(C * P), sums(Q * B), sums(Q * P)
        return torch.fft.irfft(2 * (c_b - (1 + z) * c_p * q_b / (1 + (1 + z) * q_p)), n=length)

    return forward_backward(kernel, leaves, gradient, size["length"])


def accuracy():
    """Worst relative error of the kernel and its gradients, against the dense matrix in float64."""
    size, figures = {"channels": 2, "states": 64, "length": 1024}, {}
    exact = dense(**size, double=True)()
    for name, contender in (("gramian", ours), ("dense", dense)):
        found = contender(**size)()
        errors = [float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]
        figures[f"{name}: worst relative error of kernel and gradients"] = max(errors)
    return figures


BENCHMARK = Benchmark(
    title="S4 convolution kernel, 64 states, length 16,384, 64 channels, forward and backward",
    contenders=(
        Contender("gramian", ours),
        Contender("dense Cauchy matrix, PyTorch, complex64", dense),
    ),
    sizes={
        "full": {"channels": 64, "states": 64, "length": 16384},
        "tiny": {"channels": 1, "states": 4, "length": 16},
    },
    rounds=5,
    accuracy=accuracy,
    notes=("Ours computes in double precision and returns float32; the dense matrix is complex64 throughout.",),
)
