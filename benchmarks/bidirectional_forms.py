"""Bidirectional linear attention with decays: the chunk form against the whole matrix of scores."""

import torch
import torch.nn.functional as F

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg.scan.bidirectional import bidirectional_scan


def inputs(heads, length, width, dtype=torch.float32):
    """Positive queries and keys, values, selective decays, and a gradient of the outputs."""
    g = torch.Generator().manual_seed(0)
    q, k, v, dy = (torch.randn(1, heads, length, width, generator=g) for _ in range(4))
    log_a = F.logsigmoid(torch.randn(1, heads, length, generator=g) + 3)
    tensors = [F.silu(q) + 0.5, F.silu(k) + 0.5, v, log_a]
    return [t.to(dtype).requires_grad_() for t in tensors], dy.to(dtype)


def contender(form, backward):
    """`prepare` for one form, with or without its backward pass."""

    def prepare(dtype=torch.float32, **size):
        tensors, dy = inputs(**size, dtype=dtype)

        def read():
            with torch.no_grad():
                return [bidirectional_scan(*tensors, form=form)]

        def train():
            y = bidirectional_scan(*tensors, form=form)
            return [y.detach(), *torch.autograd.grad(y, tensors, dy)]

        return train if backward else read

    return prepare


def accuracy():
    """Worst relative error over the outputs and all gradients, against the whole matrix in float64."""
    size, figures = {"heads": 2, "length": 512, "width": 64}, {}
    exact = contender("full", True)(**size, dtype=torch.float64)()
    for form in ("chunk", "full"):
        found = contender(form, True)(**size)()
        worst = max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))
        figures[f"{form}: worst relative error of outputs and gradients"] = worst
    return figures


BENCHMARK = Benchmark(
    title="Bidirectional linear attention with selective decays, 4 heads × 64, length 4,096, forward and backward",
    contenders=(
        Contender("chunks", contender("chunk", True)),
        Contender("whole matrix of scores", contender("full", True)),
    ),
    sizes={
        "full": {"heads": 4, "length": 4096, "width": 64},
        "tiny": {"heads": 1, "length": 16, "width": 4},
    },
    rounds=5,
    accuracy=accuracy,
)
