"""One token through SmolLM2's feed-forward layer with half and 70% of the gates closed, against the dense layer."""

import torch
import torch.nn.functional as F
from torch import nn

from gramian.atlas.bench import Benchmark, Contender
from gramian.nn.sparse.gated import SparseGatedMLP


def _layers(width, neurons):
    torch.manual_seed(0)
    gate, up, down = nn.Linear(width, neurons, bias=False), nn.Linear(width, neurons, bias=False), nn.Linear(neurons, width, bias=False)  # fmt: skip # noqa: E501
    return gate, up, down, torch.randn(1, 1, width)


def _repeated(function, times=50):
    """A layer takes a tenth of a millisecond: the clock needs more."""

    def run():
        with torch.no_grad():
            for _ in range(times):
                y = function()
        return y

    return run


def _sparse(share):
    def prepare(width, neurons):
        gate, up, down, x = _layers(width, neurons)
        with torch.no_grad():
            sizes = F.silu(gate(x)).abs().flatten()
        layer = SparseGatedMLP(gate, up, down, F.silu, sizes.quantile(share).expand(neurons))
        return _repeated(lambda: layer(x))

    return prepare


def dense(width, neurons):
    gate, up, down, x = _layers(width, neurons)
    return _repeated(lambda: down(F.silu(gate(x)) * up(x)))


def masked(width, neurons):
    gate, up, down, x = _layers(width, neurons)
    with torch.no_grad():
        sizes = F.silu(gate(x)).abs().flatten()
    threshold = sizes.median()

    def run():
        opened = F.silu(gate(x))
        return down(up(x) * opened.masked_fill(opened.abs() < threshold, 0))

    return _repeated(run)


def accuracy():
    gate, up, down, x = _layers(576, 1536)
    with torch.no_grad():
        sizes = F.silu(gate(x)).abs().flatten()
        layer = SparseGatedMLP(gate, up, down, F.silu, sizes.median().expand(1536))
        opened = F.silu(gate(x))
        exact = down(up(x) * opened.masked_fill(opened.abs() < sizes.median(), 0))
        return {"largest distance to masking": float((layer(x) - exact).abs().max())}


BENCHMARK = Benchmark(
    title="A gated feed-forward layer on one token, 576 × 1536, 50 calls",
    contenders=(
        Contender("gramian, half the gates closed", _sparse(0.5)),
        Contender("gramian, 70% closed", _sparse(0.7)),
        Contender("dense (torch)", dense),
        Contender("masked, half closed (torch)", masked),
    ),
    sizes={"full": {"width": 576, "neurons": 1536}, "tiny": {"width": 8, "neurons": 16}},
    rounds=15,
    accuracy=accuracy,
    notes=("The gate projection is dense in all of them: with half the gates closed at best 1.5 times is left.",),
)
