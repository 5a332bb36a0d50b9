"""Logits of SmolLM2 with one direction of a block's state taken from another run, against nnsight's intervention."""

import torch

from gramian import models
from gramian.analysis.intervention import patching
from gramian.atlas.bench import Benchmark, Contender

BLOCK = "model.layers.14"


def problem(tokens):
    model = models.pretrained("smollm2-135m").eval()
    base, source = torch.randint(100, 40_000, (2, 4, tokens), generator=torch.Generator().manual_seed(0))
    direction = torch.randn(576, 1, generator=torch.Generator().manual_seed(1))
    return model, base, source, direction / direction.norm()


def ours(tokens):
    model, base, source, direction = problem(tokens)

    def run():
        with torch.no_grad():
            return patching.patch_subspace(model, BLOCK, direction, base, source, -1).logits

    return run


def theirs(tokens):
    from nnsight import NNsight

    model, base, source, direction = problem(tokens)
    traced = NNsight(model)
    block = traced.model.layers[14]

    def run():
        with torch.no_grad():
            with traced.trace(source):
                held = block.output[:, -1].save()
            with traced.trace(base):
                state = block.output[:, -1]
                block.output[:, -1] = state + ((held - state) @ direction) @ direction.T
                logits = traced.output.logits.save()
        return logits

    return run


def accuracy():
    try:
        exact = theirs(16)()
    except ImportError:
        return {}
    return {"largest difference of the logits": float((ours(16)() - exact).abs().max())}


BENCHMARK = Benchmark(
    title="Logits of SmolLM2 with one direction of block 14 patched, 4 texts of 64 tokens",
    contenders=(Contender("gramian", ours), Contender("nnsight", theirs, needs=("nnsight",))),
    sizes={"full": {"tokens": 64}, "tiny": {"tokens": 4}},
    rounds=7,
    accuracy=accuracy,
)
