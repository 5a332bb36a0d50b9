"""BiLRP of two texts through MiniLM, all 384 entries of the embedding, against one backward pass an entry."""

import torch

from gramian import models
from gramian.analysis.explain.bilrp import bilrp_text
from gramian.analysis.explain.relevance import lrp_mode
from gramian.analysis.taps import Taps
from gramian.atlas.bench import Benchmark, Contender
from gramian.data import text


def problem(tokens):
    model, read = models.pretrained("all-minilm-l6-v2").eval(), models.tokenizer("all-minilm-l6-v2")
    ids = [i for passage in text.passages(4) for i in read(passage, add_special_tokens=False).input_ids]
    start, end = read.cls_token_id, read.sep_token_id
    pieces = [ids[k * tokens : (k + 1) * tokens - 2] for k in range(2)]
    return model, [torch.tensor([start, *p, end]) for p in pieces]


def ours(tokens):
    model, (one, two) = problem(tokens)
    return lambda: bilrp_text(model, one, two).matrix()


def one_pass_an_entry(tokens):
    model, texts = problem(tokens)

    def factor(ids):
        kept = []

        def leaf(value):
            kept.append(value.detach().clone().requires_grad_())
            return kept[0]

        with lrp_mode(model), Taps(model, {"embeddings.LayerNorm": leaf}, side="in", mode="write"):
            out = model(ids[None])[0][0].mean(0)
        rows = [torch.autograd.grad(value, kept[0], retain_graph=True)[0] for value in out]
        return torch.stack([(kept[0] * g).detach().sum(-1)[0] for g in rows])

    def run():
        left, right = (factor(ids) for ids in texts)
        return left.mT @ right

    return run


def accuracy():
    exact, found = one_pass_an_entry(8)(), ours(8)()
    return {"largest difference of the two tables, over the largest entry": float((exact - found).abs().max() / exact.abs().max())}  # fmt: skip # noqa: E501


BENCHMARK = Benchmark(
    title="BiLRP of two texts of 32 tokens, MiniLM, 384 entries",
    contenders=(
        Contender("gramian", ours),
        Contender("one backward pass an entry", one_pass_an_entry),
    ),
    sizes={"full": {"tokens": 32}, "tiny": {"tokens": 6}},
    rounds=3,
    accuracy=accuracy,
)
