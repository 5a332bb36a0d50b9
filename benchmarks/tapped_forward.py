"""A forward pass of MiniLM with moments of every block kept, against the plain pass."""

import torch

from gramian import models
from gramian.analysis.reducers import Moments
from gramian.analysis.taps import Taps
from gramian.atlas.bench import Benchmark, Contender


def problem(texts, tokens):
    model = models.pretrained("all-minilm-l6-v2").eval()
    ids = torch.randint(1000, 20000, (texts, tokens), generator=torch.Generator().manual_seed(0))
    return model, ids


def plain(**size):
    model, ids = problem(**size)

    def run():
        with torch.no_grad():
            return model(ids)[0]

    return run


def tapped(**size):
    model, ids = problem(**size)

    def run():
        with torch.no_grad(), Taps(model, {"encoder.layer.?": [Moments()]}):
            return model(ids)[0]

    return run


def kept(**size):
    """What people do without taps: all hidden states, and moments of them afterwards."""
    model, ids = problem(**size)

    def run():
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[1:]
            return [(s.double().mean((0, 1)), s.double().flatten(0, 1).var(0)) for s in states]

    return run


def accuracy():
    model, ids = problem(4, 16)
    with torch.no_grad(), Taps(model, {"encoder.layer.?": [Moments()]}) as taps:
        states = model(ids, output_hidden_states=True).hidden_states[1:]
    gap = max(
        float((taps[f"encoder.layer.{k}"][0].mean - s.double().mean((0, 1))).abs().max()) for k, s in enumerate(states)
    )
    return {"largest difference of a mean": gap}


BENCHMARK = Benchmark(
    title="MiniLM on 16 texts of 128 tokens, mean and variance of all 6 blocks",
    contenders=(
        Contender("gramian: taps", tapped),
        Contender("plain pass, nothing kept", plain),
        Contender("all states kept, moments afterwards", kept),
    ),
    sizes={"full": {"texts": 16, "tokens": 128}, "tiny": {"texts": 1, "tokens": 4}},
    rounds=9,
    accuracy=accuracy,
)
