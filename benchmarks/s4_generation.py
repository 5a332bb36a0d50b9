"""Generation with S4: 256 new outputs by the recurrence, against computing the convolution anew."""

import torch

from gramian.atlas.bench import Benchmark, Contender
from gramian.nn.state import S4


def layer_and_past(channels, length):
    """A layer folded for `length` steps, and an input of that length."""
    g = torch.Generator().manual_seed(0)
    layer = S4(channels, 64, length=length, mixing="none", generator=g).eval().requires_grad_(False)
    return layer, torch.randn(1, length, channels, generator=g)


def by_steps(channels, length, new):
    """All the new outputs, one step each, after a state that the past has left."""
    layer, x = layer_and_past(channels, length)
    past = x[:, : length - new]
    _, state = layer(past)
    system = layer.discrete()
    output = layer.output(system)

    def run():
        current, outputs = state, []
        for t in range(length - new, length):
            y, current = layer.step(x[:, t], current, system, output)
            outputs.append(y)
        return [torch.stack(outputs, 1)]

    return run


def by_convolution(channels, length, new):
    """The same outputs, each by a convolution over everything up to it (kernels computed once)."""
    from gramian.linalg import scan

    layer, x = layer_and_past(channels, length)
    kernel, u = layer.kernel(length), x.mT.contiguous()

    def run():
        outputs = []
        for t in range(length - new, length):
            y = scan.fft_convolution(u[..., : t + 1], kernel)[..., -1]
            outputs.append(y + layer.D * u[..., t])
        return [torch.stack(outputs, 1)]

    return run


def accuracy():
    """Largest gap between the two forms, as a share of the largest output."""
    size = {"channels": 16, "length": 512, "new": 16}
    steps, convolution = by_steps(**size)()[0], by_convolution(**size)()[0]
    return {"gap between steps and convolution": float((steps - convolution).abs().max() / convolution.abs().max())}


BENCHMARK = Benchmark(
    title="S4, 256 new outputs after a past of 4096 steps",
    contenders=(
        Contender("recurrence", by_steps),
        Contender("convolution anew", by_convolution, rounds=3),
    ),
    sizes={
        "full": {"channels": 128, "length": 4096, "new": 256},
        "tiny": {"channels": 2, "length": 16, "new": 4},
    },
    rounds=5,
    accuracy=accuracy,
    notes=("The convolution's kernel is computed once and not counted.",),
)
