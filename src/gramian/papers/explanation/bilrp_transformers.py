"""BiLRP for transformers: which tokens of two texts make their embeddings alike (Vasileiou and Eberle, 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import models
from gramian.analysis.explain import bilrp, relevance
from gramian.lab import Card, Run

CARD = Card(
    title="Explaining Text Similarity in Transformer Models",
    row=105,
    arxiv="2405.06604",
    year=2024,
    kind="method",
    idea="Hold attention weights, the divisors of LayerNorm and the gains of GELU constant: input times gradient is "
    "then relevance. Do it for every entry of two texts' embeddings and multiply out: a table of token pairs.",
    claim="The pairs of tokens that BiLRP marks are those that the similarity rests on; input times gradient is not.",
    keywords=("sentence similarity", "retrieval", "token interactions", "LRP", "explain embeddings", "MiniLM"),
    api=(
        "gramian.analysis.explain.bilrp.bilrp_text",
        "gramian.analysis.explain.bilrp.BiRelevance",
        "gramian.analysis.explain.relevance.lrp_mode",
    ),
    use="found = bilrp_text(encoder, tokens_of_one_text, tokens_of_another)\n"
    "found.matrix()   # (tokens, tokens): the relevance of each pair\nfound.top(5)",
    reach="SBERT, SimCSE, SGPT and the corpora of the paper (grammar, other languages, biomedical retrieval) are not "
    "here; MiniLM and six pairs of sentences stand in",
    differs=(
        "torch's functions are intercepted, so that fused attention is opened up instead of refused, and no module is "
        "replaced.",
        "All entries of the embedding are handed back in batches, not one backward pass each.",
        "Found here: before the first LayerNorm input times gradient is zero for every token (the norm does not see a "
        "token's scale), so that its ranking there is rounding. Behind the norm it is a baseline, and not a poor one.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2",),
)

PAIRS = (
    ("A man is playing a guitar on stage.", "Someone plays the guitar at a concert."),
    ("The cat sleeps on the warm sofa.", "A kitten is napping on the couch."),
    ("The central bank raised interest rates again.", "Borrowing costs went up after the bank's decision."),
    ("Heavy rain flooded the streets of the city.", "Streets in town were under water after the storm."),
    ("She bought fresh bread at the bakery.", "The baker sold her a new loaf of bread."),
    ("Scientists found water on the surface of Mars.", "Researchers discovered that Mars has water."),
)
NORMED = "encoder.layer.0"
"""The module that reads the embeddings behind their LayerNorm."""


class Encoder(nn.Module):
    """A transformer encoder without biases, whose parts sum to the whole.

    Args:
        fused: attention by torch's fused function, or written out.
    """

    def __init__(self, generator: torch.Generator, *, width: int = 12, layers: int = 2, fused: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, width)
        self.embed = nn.LayerNorm(width, elementwise_affine=False, bias=False)
        self.mix = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(layers))
        self.wide = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(layers))
        self.narrow = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(layers))
        self.fused = fused
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / p.shape[-1] ** 0.5

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(self.table(ids))
        for mix, wide, narrow in zip(self.mix, self.wide, self.narrow):
            query, key, value = mix(x).chunk(3, -1)
            if self.fused:
                x = x + F.scaled_dot_product_attention(query, key, value)
            else:
                x = x + torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value
            x = F.layer_norm(x, x.shape[-1:])
            x = x + narrow(F.gelu(wide(x)))
        return x


def conserves(run: Run) -> None:
    """In an encoder without biases the table sums to the similarity, and the answer stays its own."""
    tables = []
    for fused in (False, True):
        encoder = Encoder(run.generator(), fused=fused).eval()
        first, second = torch.tensor([3, 7, 1, 12, 5]), torch.tensor([7, 2, 9, 19])
        found = bilrp.bilrp_text(encoder, first, second, embeddings="embed")
        with torch.no_grad():
            one, two = (encoder(i[None])[0].mean(0) for i in (first, second))
            plain = encoder(first[None])
        with relevance.lrp_mode(encoder):
            held = encoder(first[None])
        how = "fused attention" if fused else "attention written out"
        y = float(one @ two)
        run.check(f"{how}: forward pass with units held against the plain one (largest difference)",
                  (held - plain).abs().max(), below=1e-5)  # fmt: skip
        run.check(f"{how}: sum of the table against the similarity (relative)",
                  abs(float(found.matrix().sum()) / y - 1), below=1e-5)  # fmt: skip
        tables.append(found.matrix())
    run.check("fused attention: table against that of attention written out (largest difference)",
              (tables[0] - tables[1]).abs().max(), below=1e-9)  # fmt: skip
    back = bilrp.bilrp_text(encoder, second, first, embeddings="embed").matrix()
    run.check("texts swapped: table against its transpose (largest difference)", (back - tables[1].T).abs().max(),
              below=1e-9)  # fmt: skip
    wide = bilrp.bilrp_text(encoder, first, second, embeddings="embed", level="embedding").matrix()
    summed = wide.view(5, 12, 4, 12).sum((1, 3))
    run.check("relevance of single embedding entries, summed over tokens (largest difference)",
              (summed - tables[1]).abs().max(), below=1e-9)  # fmt: skip


def _tokens(tokenizer: Any, text: str) -> tuple[Tensor, list[str]]:
    ids = tokenizer(text).input_ids
    return torch.tensor(ids), tokenizer.convert_ids_to_tokens(ids)


def _embedding(encoder: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(ids[None])[0][0].mean(0)


def _fall(encoder: nn.Module, ids: Tensor, target: Tensor, dropped: list[int]) -> float:
    """How much the cosine of a text with another's embedding falls when tokens of it are left out."""
    keep = [k for k in range(len(ids)) if k not in dropped]
    before, after = (F.cosine_similarity(_embedding(encoder, i), target, dim=0) for i in (ids, ids[keep]))
    return float(before - after)


def _strongest(matrix: Tensor, count: int) -> list[int]:
    """The tokens of the first text of the largest relevance, the two special ones left out."""
    return (matrix.sum(1)[1:-1].topk(count).indices + 1).tolist()


def on_sentences(run: Run, pairs: int, count: int = 3, draws: int = 12) -> None:
    """MiniLM on paraphrases: what the tables sum to, and what leaving out their tokens does."""
    encoder, tokenizer = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    generator = run.generator(1)
    rows, nothing = [], 0.0
    for k, (a, b) in enumerate(run.progress(PAIRS[:pairs], "pairs of sentences")):
        (first, words), (second, others) = _tokens(tokenizer, a), _tokens(tokenizer, b)
        found = bilrp.bilrp_text(encoder, first, second)
        target = _embedding(encoder, second)
        row: dict[str, Any] = {"pair": f"{a} / {b}"}
        i, j, _ = found.top()[0]
        row["strongest"] = f"{words[i]} – {others[j]}"
        row["sum / similarity"] = float(found.matrix().sum() / found.similarity)
        row["fall, BiLRP"] = _fall(encoder, first, target, _strongest(found.matrix(), count))
        if not run.quick:
            if k == 0:
                plain = bilrp.bilrp_text(encoder, first, second, method="gradient")
                nothing = abs(float(plain.matrix().sum() / found.similarity))
            behind = bilrp.bilrp_text(encoder, first, second, method="gradient", embeddings=NORMED)
            row["fall, input × gradient"] = _fall(encoder, first, target, _strongest(behind.matrix(), count))
        drawn = [(torch.randperm(len(first) - 2, generator=generator)[:count] + 1).tolist() for _ in range(draws)]
        row["fall, random"] = sum(_fall(encoder, first, target, d) for d in drawn) / draws
        rows.append(row)
        if k == 0:
            pairs_found = {f"{words[i]}-{others[j]}" for i, j, _ in found.top(2)}
            run.check("guitar on stage, guitar at a concert: the two strongest pairs", sorted(pairs_found),
                      equals=["guitar-guitar", "stage-concert"])  # fmt: skip
            _picture(run, found, words, others)
    run.table("pairs", rows, "Fall of the cosine when tokens of the first text are left out: those with the largest "
              f"relevance, {count} of them, or drawn ones.")  # fmt: skip
    totals = [r["sum / similarity"] for r in rows]
    run.check("sum of the table over the similarity, least", min(totals), between=(0.9, 1.8))
    run.check("sum of the table over the similarity, largest", max(totals), between=(0.9, 1.8),
              paper="biases take part, so that the sum is not exact")  # fmt: skip
    fall = {name: sum(r[name] for r in rows) / len(rows) for name in rows[0] if name.startswith("fall")}
    run.check("fall of the cosine, BiLRP's tokens over random ones", fall["fall, BiLRP"] / fall["fall, random"],
              above=2.0)  # fmt: skip
    if not run.quick:
        run.check("input × gradient before LayerNorm: sum of the table over the similarity", nothing, below=1e-4)
        ratio = fall["fall, BiLRP"] / fall["fall, input × gradient"]
        run.check("fall of the cosine, BiLRP's tokens over those of input × gradient behind the norm", ratio,
                  above=1.1)  # fmt: skip


def _picture(run: Run, found: bilrp.BiRelevance, words: list[str], others: list[str]) -> None:
    from matplotlib import pyplot

    matrix = found.matrix()
    figure, panel = pyplot.subplots(figsize=(7.5, 3.6))
    limit = float(matrix.abs().max())
    largest = float(matrix.max())
    for i in range(len(words)):
        for j in range(len(others)):
            strength = float(matrix[i, j]) / limit
            if abs(strength) > 0.02:
                panel.plot([i, j], [1, 0], color="C5" if strength > 0 else "C0", linewidth=7 * abs(strength), alpha=0.7)
    for k, word in enumerate(words):
        panel.text(k, 1.04, word, ha="center", va="bottom", fontsize=9, rotation=30)
    for k, word in enumerate(others):
        panel.text(k, -0.04, word, ha="center", va="top", fontsize=9, rotation=30)
    panel.set(xlim=(-0.6, max(len(words), len(others)) - 0.4), ylim=(-0.25, 1.25))
    panel.axis("off")
    run.plot("pairs", figure, f"Which tokens make two sentences alike: red lines speak for it, blue against; the "
             f"strongest pair has {largest:.1f} of {float(found.similarity):.1f}.")  # fmt: skip


def experiment(run: Run, *, pairs: int = 6) -> None:
    """Conservation in an encoder without biases, and MiniLM on paraphrases: pairs, sums, and tokens left out.

    Args:
        pairs: pairs of sentences (full; the quick profile takes one).
    """
    conserves(run)
    on_sentences(run, 1 if run.quick else pairs)
    run.text(
        "similarity",
        "With units held constant, input times gradient finds the words that mean the same in both sentences. Without, "
        "it is zero for each token before the first LayerNorm.",
    )
