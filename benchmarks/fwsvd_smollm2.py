"""SmolLM2-135M compressed to 80% of its blocks' parameters: Fisher matrix, ranks, factors, the whole way."""

import torch
from torch import nn

from gramian import models
from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.atlas.bench import Benchmark, Contender
from gramian.data import text
from gramian.surgery import factorize


def model_and_tokens(layers, sequences, tokens):
    model, tokenize = models.pretrained("smollm2-135m"), models.tokenizer("smollm2-135m")
    ids = torch.tensor(tokenize(text.descriptions()).input_ids)
    count = sequences * tokens
    patterns = tuple(f"model.layers.{i}.*" for i in range(layers))
    return model, ids[:count].reshape(sequences, tokens), patterns


def losses(outputs, ids):
    each = nn.functional.cross_entropy(outputs[:, :-1].mT, ids[:, 1:], reduction="none")
    return each.sum(1)


def weighted(**size):
    model, ids, patterns = model_and_tokens(**size)

    def call():
        params = tuple(f"{p}.weight" for p in patterns)
        fisher = FisherAccumulator(model, params=params, loss=losses).update(ids, ids).value()
        ranks = factorize.spread_ranks(model, 0.8, patterns, fisher=fisher)
        report = factorize.fwsvd(model, fisher, patterns, ranks=ranks)
        assert report.kept <= 0.8
        report.handle.undo()

    return call


def plain(**size):
    model, _, patterns = model_and_tokens(**size)

    def call():
        ranks = factorize.spread_ranks(model, 0.8, patterns)
        factorize.factorize(model, patterns, ranks=ranks).handle.undo()

    return call


BENCHMARK = Benchmark(
    title="SmolLM2-135M, 210 matrices to 80% of their parameters",
    contenders=(Contender("FWSVD", weighted, rounds=1), Contender("SVD, without a Fisher matrix", plain, rounds=1)),
    sizes={
        "full": {"layers": 30, "sequences": 8, "tokens": 128},
        "tiny": {"layers": 1, "sequences": 2, "tokens": 8},
    },
    rounds=1,
    notes=("From the loaded model to the replaced layers; the Fisher matrix of 8 sequences of 128 tokens included.",),
)
