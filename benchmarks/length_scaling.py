"""How the cost of the recurrences grows with the length: forward and backward at 1,024 and at 16,384 steps."""

import math
import statistics
import time

import torch
import torch.nn.functional as F

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg import scan
from gramian.linalg.scan.bidirectional import bidirectional_scan

SHORT, LONG = 1024, 16384


def _draw(*shapes):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=g) for shape in shapes]


def selective(length):
    """1,024 channels of 16 states."""
    u, dt, B, C = _draw((1, 1024, length), (1, 1024, length), (1, 16, length), (1, 16, length))
    A = -torch.arange(1.0, 17).repeat(1024, 1)
    return scan.selective_scan, [u, 0.1 * torch.sigmoid(dt), A, B, C, torch.ones(1024)]


def matrix_state(length):
    """4 heads of 64 × 64 states, a gate a coordinate."""
    q, k, v, raw = _draw(*[(1, 4, length, 64)] * 4)
    return scan.matrix_state_scan, [q / 8, k, v, F.logsigmoid(raw) / 16]


def head_gates(length):
    """4 heads of 64 × 64 states, a gate a head."""
    q, k, v, raw = _draw(*[(1, 4, length, 64)] * 3, (1, 4, length))
    return scan.matrix_state_scan, [q / 8, k, v, F.logsigmoid(raw) / 16]


def delta_rule(length):
    """4 heads of 64 × 64 states, one reflection a token."""
    q, k, v, raw = _draw((1, 4, length, 64), *[(1, 4, length, 1, 64)] * 2, (1, 4, length, 1))
    return scan.householder_scan, [q, k, v, raw.sigmoid()]


def both_ways(length):
    """4 heads of 64 × 64 states, read from both ends."""
    q, k, v, raw = _draw(*[(1, 4, length, 64)] * 3, (1, 4, length))
    return bidirectional_scan, [F.silu(q) + 0.5, F.silu(k) + 0.5, v, F.logsigmoid(raw + 3)]


def convolution(length):
    """1,024 channels against kernels as long as they."""
    return scan.fft_convolution, _draw((1, 1024, length), (1024, length))


KINDS = (selective, matrix_state, head_gates, delta_rule, both_ways, convolution)
NAMES = (
    "selective scan", "gated linear attention", "Mamba-2's recurrence", "delta rule", "both ways", "FFT convolution",
)  # fmt: skip


def prepare(kind, length):
    """One forward and backward pass."""
    function, tensors = KINDS[kind](length)
    for t in tensors:
        t.requires_grad_()

    def run():
        y = function(*tensors)
        y = y[0] if isinstance(y, tuple) else y
        return [y.detach(), *torch.autograd.grad(y.square().sum(), tensors)]

    return run


def slopes(rounds=7):
    """log(time at 16,384 / time at 1,024) / log 16, the median over alternating rounds; the short run is repeated."""
    found = {}
    for kind, name in enumerate(NAMES):
        short, long = prepare(kind, SHORT), prepare(kind, LONG)
        short(), long()
        ratios = []
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(LONG // SHORT):
                short()
            middle = time.perf_counter()
            long()
            ratios.append((time.perf_counter() - middle) / (middle - start) * (LONG // SHORT))
        found[f"{name}: slope of time against length"] = math.log(statistics.median(ratios), LONG / SHORT)
    return found


BENCHMARK = Benchmark(
    title="Recurrences, forward and backward: how time grows from 1,024 to 16,384 steps",
    contenders=(Contender("selective scan, 16,384 steps", prepare),),
    sizes={"tiny": {"kind": 0, "length": 16}, "full": {"kind": 0, "length": LONG}},
    rounds=3,
    accuracy=slopes,
    notes=("A slope below 1 says that 1,024 steps are so few that what a call costs by itself shows.",),
)
