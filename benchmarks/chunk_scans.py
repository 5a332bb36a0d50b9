"""Recurrences of matrix states by chunks against loops over tokens: gated linear attention, Mamba-2, the delta rule."""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F

from gramian.atlas.bench import Benchmark, Contender
from gramian.linalg import scan

KINDS = ("a gate a coordinate", "a gate a head", "delta rule")


def inputs(kind, heads, length, width, dtype=torch.float32):
    """The tensors of a recurrence and a gradient of its outputs."""
    g = torch.Generator().manual_seed(0)
    q, k, v, raw, dy = (torch.randn(1, heads, length, width, generator=g) for _ in range(5))
    gates = F.logsigmoid(raw) / 16
    if KINDS[kind] == "delta rule":
        beta = torch.rand(1, heads, length, 1, generator=g)
        tensors = [q, k[:, :, :, None], v[:, :, :, None], beta]
    else:
        tensors = [q * width**-0.5, k, v, gates if kind == 0 else gates[..., 0].clone()]
    return [t.to(dtype).requires_grad_() for t in tensors], dy.to(dtype)


def contender(by_chunks):
    """`prepare` of the chunk form or the loop."""

    def prepare(kind, **size):
        name = "householder_scan" if KINDS[kind] == "delta rule" else "matrix_state_scan"
        function = getattr(scan, name if by_chunks else name + "_reference")
        tensors, dy = inputs(kind, **size)

        def run():
            y = function(*tensors)
            y = y[0] if isinstance(y, tuple) else y
            return [y.detach(), *torch.autograd.grad(y, tensors, dy)]

        return run

    return prepare


PLAIN = (
    ("gla", "naive_recurrent_gla"),
    ("simple_gla", "naive_recurrent_simple_gla"),
    ("delta_rule", "delta_rule_recurrence"),
)
CHUNKS = (
    PLAIN[0],
    ("simple_gla", "naive_chunk_simple_gla"),
    ("delta_rule", "delta_rule_chunkwise"),
)  # it has none with a gate a coordinate


def plain(forms):
    """`prepare` of flash-linear-attention's plain PyTorch forms, out of its files: its package needs triton."""

    def prepare(kind, **size):
        folder, name = forms[kind]
        root = Path(importlib.util.find_spec("fla").submodule_search_locations[0])
        spec = importlib.util.spec_from_file_location(f"fla_{folder}_naive", root / "ops" / folder / "naive.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        function = getattr(module, name)
        tensors, dy = inputs(kind, **size)
        scale = size["width"] ** 0.5  # theirs divides by it

        def run():
            if KINDS[kind] == "delta rule":
                q, k, v, beta = tensors
                y = function(q * scale, F.normalize(k[:, :, :, 0], dim=-1), v[:, :, :, 0], beta[..., 0])
            else:
                q, k, v, gates = (t.transpose(1, 2) for t in tensors)  # (batch, length, heads, …)
                y = function(q * scale, k, v, gates)
            y = y[0] if isinstance(y, tuple) else y
            y = y if KINDS[kind] == "delta rule" else y.transpose(1, 2)
            return [y.detach(), *torch.autograd.grad(y, tensors, dy)]

        return run

    return prepare


def accuracy():
    """Worst relative error over the outputs and all gradients, against the float64 loop."""
    size, errors = {"heads": 2, "length": 512, "width": 64}, {}
    for kind, name in enumerate(KINDS):
        exact = contender(False)(kind, **size, dtype=torch.float64)()
        found = contender(True)(kind, **size)()
        worst = max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))
        errors[f"{name}: worst relative error of outputs and gradients"] = worst
        if importlib.util.find_spec("fla"):
            theirs = plain(PLAIN)(kind, **size)()
            gap = max(float((f - e).norm() / e.norm()) for f, e in zip(theirs, exact, strict=True))
            errors[f"{name}: the same of flash-linear-attention's loop"] = gap
    return errors


SIZE = {"heads": 2, "length": 2048, "width": 64}
BENCHMARK = Benchmark(
    title="Matrix states by chunks, forward and backward, 2 heads × 64, length 2,048, float32",
    contenders=(
        Contender("gramian", contender(True)),
        Contender("gated linear attention, loop over tokens", contender(False), rounds=3),
        Contender("Mamba-2's recurrence, loop over tokens", contender(False), size="head", rounds=3),
        Contender("delta rule, loop over tokens", contender(False), size="delta", rounds=3),
        Contender("flash-linear-attention, plain loop, a gate a coordinate", plain(PLAIN), ("fla",), rounds=3),
        Contender("flash-linear-attention, plain loop, a gate a head", plain(PLAIN), ("fla",), "head", rounds=3),
        Contender("flash-linear-attention, plain loop, delta rule", plain(PLAIN), ("fla",), "delta", rounds=3),
        Contender("flash-linear-attention, plain chunks, a gate a head", plain(CHUNKS), ("fla",), "head"),
        Contender("flash-linear-attention, plain chunks, delta rule", plain(CHUNKS), ("fla",), "delta"),
    ),
    sizes={
        "full": {"kind": 0, **SIZE},
        "head": {"kind": 1, **SIZE},
        "delta": {"kind": 2, **SIZE},
        "tiny": {"kind": 0, "heads": 1, "length": 16, "width": 4},
    },
    rounds=5,
    accuracy=accuracy,
)
