"""How linear every block of SmolLM2 is, over 4,096 tokens: streamed statistics, against keeping all activations."""

import itertools

import torch

from gramian import models
from gramian.analysis.geometry.linearity import linearity
from gramian.analysis.geometry.linearity_profile import linearity_profile
from gramian.atlas.bench import Benchmark, Contender
from gramian.data import text

BYTES = 64 * 2**20


def problem(tokens, blocks):
    model, read = models.pretrained("smollm2-135m").eval().model, models.tokenizer("smollm2-135m")
    ids = [i for passage in text.passages(60) for i in read(passage).input_ids]
    ids = torch.tensor((ids * (1 + tokens // len(ids)))[:tokens])
    batches = ids.view(-1, 256).split(1)
    with torch.no_grad():
        model(batches[0])  # the weights come into memory and the passes' own buffers are made before anything counts
    return model, batches, [f"layers.{k}" for k in range(blocks)]


def streamed(tokens, blocks):
    model, batches, names = problem(tokens, blocks)
    return lambda: [b.score for b in linearity_profile(model, batches, names, max_bytes=BYTES)]


def keep_all(tokens, blocks):
    model, batches, _ = problem(tokens, blocks)

    def run():
        kept = [[] for _ in range(blocks + 1)]
        with torch.no_grad():
            for batch in batches:
                # the model's own list ends with the normed state: the last block is left out
                states = model(batch, output_hidden_states=True).hidden_states
                for k in range(blocks + 1):
                    kept[k].append(states[k][0])
        return [linearity(torch.cat(a), torch.cat(b)) for a, b in itertools.pairwise(kept)]

    return run


def accuracy():
    size = {"tokens": 1024, "blocks": 2}
    gaps = [abs(a - b) for a, b in zip(streamed(**size)(), keep_all(**size)(), strict=True)]
    return {"largest difference of a score": max(gaps)}


BENCHMARK = Benchmark(
    title="Linearity of 29 blocks of SmolLM2 over 4,096 tokens",
    contenders=(Contender("gramian: streamed, 64 MiB", streamed), Contender("all states kept", keep_all)),
    sizes={"full": {"tokens": 4096, "blocks": 29}, "tiny": {"tokens": 1024, "blocks": 1}},
    rounds=1,
    accuracy=accuracy,
    notes=("Streaming under a cap of memory reads the text several times: it pays in time what it saves in memory.",),
)
