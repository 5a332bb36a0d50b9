"""Matrix nuclear norm: score a language model by its hidden states in linear time (Li et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gramian import models
from gramian.analysis import llm_eval
from gramian.data import text
from gramian.lab import Card, Run
from gramian.linalg.spectral import spectra

CARD = Card(
    title="Large Language Model Evaluation via Matrix Nuclear-Norm",
    row=3,
    arxiv="2410.10672",
    year=2024,
    kind="method",
    idea="The nuclear norm of a text's last hidden states, centred and with rows of length one, says how far the "
    "model keeps tokens apart. The sum of the largest column norms stands in for it: no decomposition, linear "
    "time.",
    claim="Column norms approximate the nuclear norm well enough to rank models and texts, 8 to 24 times faster than "
    "the matrix entropy.",
    keywords=("evaluate a language model without labels", "compression", "rank", "hidden states", "fast"),
    api=(
        "gramian.linalg.spectral.spectra.nuclear_norm",
        "gramian.linalg.spectral.spectra.matrix_entropy",
        "gramian.analysis.llm_eval.mnn_score",
    ),
    use="texts = [torch.tensor(tokenizer(t).input_ids) for t in my_texts]\nscore = mnn_score(model, texts, layer=-1)",
    reach="models of 111M to 6.7B parameters are not available here; SmolLM2-135M and MiniLM stand in",
    differs=(
        "The stand-in bounds the nuclear norm from above only when all columns are summed; the released code keeps "
        "the min(tokens, features) largest, which for texts shorter than the width bounds nothing. Both are here "
        "(top=).",
        "A text whose tokens are all equal has no direction after centring; it is refused, not divided by zero.",
        "Found here: the exact norm tells prose from a repeated phrase on both models at every length tried; the "
        "column norms rank the repetition above the prose on MiniLM, and on SmolLM2 at some lengths.",
    ),
    needs=("language",),
    data=("smollm2_135m", "all_minilm_l6_v2"),
)

PHRASE = "the cat sat on the mat and slept"


def exact_on_orthogonal_columns(run: Run) -> None:
    """Column norms are the nuclear norm exactly when the columns are orthogonal."""
    basis = torch.linalg.qr(torch.randn(96, 40, generator=run.generator(), dtype=torch.float64)).Q
    x = basis * torch.logspace(-3, 2, 40, dtype=torch.float64)
    gap = (spectra.nuclear_norm(x, "l12") - spectra.nuclear_norm(x, "svd")).abs()
    size = torch.linalg.svdvals(x).sum()
    run.check("column norms equal the nuclear norm on orthogonal columns (relative gap)", gap / size, below=1e-12)


def bound_from_above(run: Run, trials: int = 200) -> None:
    """With at least as many rows as columns the column norms bound the nuclear norm from above."""
    generator = run.generator(1)
    least = float("inf")
    for trial in range(trials):
        columns = 2 + trial % 30
        rows = columns + int(torch.randint(0, 40, (1,), generator=generator))
        x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        x = x @ torch.randn(columns, columns, generator=generator, dtype=torch.float64)
        ratio = spectra.nuclear_norm(x, "l12") / torch.linalg.svdvals(x).sum()
        least = min(least, float(ratio))
    run.check(f"least ratio of column norms to nuclear norm, {trials} tall matrices", least, above=1 - 1e-12)


def overshoot_along_a_dense_direction(run: Run) -> None:
    """The stand-in is not rotation invariant: rank one along (1, …, 1) overshoots by the root of the width."""
    width = 576
    column = torch.randn(64, 1, generator=run.generator(2), dtype=torch.float64)
    x = column @ torch.ones(1, width, dtype=torch.float64)
    ratio = spectra.nuclear_norm(x, "l12", top=width) / spectra.nuclear_norm(x, "svd")
    off = (ratio / width**0.5 - 1).abs()
    run.check(f"rank one along (1, …, 1) overshoots by √{width} (relative distance)", off, below=1e-9)


def entropy_at_its_extremes(run: Run) -> None:
    """The matrix entropy is one for orthonormal columns and zero for rank one."""
    basis = torch.linalg.qr(torch.randn(80, 32, generator=run.generator(3), dtype=torch.float64)).Q
    run.check(
        "matrix entropy of orthonormal columns, distance to 1", (spectra.matrix_entropy(basis) - 1).abs(), below=1e-9
    )
    rank_one = torch.outer(basis[:, 0], basis[:32, 1])
    run.check("matrix entropy of rank one, distance to 0", spectra.matrix_entropy(rank_one).abs(), below=1e-9)


def prose_above_repetition(run: Run, name: str, passages: int, tokens: int) -> None:
    """By the exact norm each passage of prose scores above one short phrase repeated to the same length.

    By the column norms it depends on the model and the length: that is reported, not gated.
    """
    model, tokenizer = models.pretrained(name), models.tokenizer(name)
    repeated = _repeated(tokenizer, tokens)
    depth = range(len(llm_eval.hidden_states(model, repeated[:8])))
    flat = llm_eval.score_text(model, repeated, depth)
    rows, prose = [], []
    for i, passage in enumerate(run.progress(text.passages(passages), f"scoring prose with {name}")):
        prose.append(llm_eval.score_text(model, torch.tensor(tokenizer(passage).input_ids[:tokens]), depth))
        rows.append({"text": f"prose {i + 1}: {passage[:48]}…", **_figures(prose[-1])})
    rows.append({"text": f"repeated: {PHRASE}", **_figures(flat)})
    run.table(f"last layer of {name}", rows, f"scores of {tokens}-token texts; higher keeps tokens further apart")
    run.check(
        f"{name}: passages of {passages} whose exact norm is above a repeated phrase's",
        sum(bool(scores.svd[-1] > flat.svd[-1]) for scores in prose),
        equals=passages,
        paper="ranks models of 111M–6.7B parameters by it; those are not available here",
    )
    above = sum(bool(scores.l12[-1] > flat.l12[-1]) for scores in prose)
    _agreement(run, name, prose, f"{above} of {passages} passages of {tokens} tokens score above the repeated phrase.")
    _picture(run, name, prose, flat)


def column_norms_by_length(run: Run, name: str, passages: int, lengths: tuple[int, ...]) -> None:
    """At which lengths the column norms, too, put prose above repetition."""
    model, tokenizer = models.pretrained(name), models.tokenizer(name)
    rows = []
    for tokens in run.progress(lengths, "scoring texts of several lengths"):
        flat = llm_eval.score_text(model, _repeated(tokenizer, tokens))
        ids = [torch.tensor(tokenizer(p).input_ids[:tokens]) for p in text.passages(passages)]
        prose = [llm_eval.score_text(model, i) for i in ids]
        row = {"tokens": tokens}
        for label, method in (("exact norm", "svd"), ("column norms", "l12"), ("matrix entropy", "entropy")):
            row[label] = sum(bool(getattr(p, method) > getattr(flat, method)) for p in prose)
        rows.append(row)
    run.table(
        f"lengths, {name}", rows, f"how many of {passages} passages score above a repeated phrase of their length"
    )
    run.check(
        "fewest passages above the repeated phrase at any length, exact norm",
        min(row["exact norm"] for row in rows),
        equals=passages,
    )


def _repeated(tokenizer: Callable[..., Any], tokens: int) -> Tensor:
    phrase = tokenizer(PHRASE, add_special_tokens=False).input_ids
    return torch.tensor((phrase * (tokens // len(phrase) + 1))[:tokens])


def _figures(scores: llm_eval.TextScores) -> dict[str, float]:
    return {
        "column norms": float(scores.l12[-1]),
        "exact": float(scores.svd[-1]),
        "matrix entropy": float(scores.entropy[-1]),
    }


def _agreement(run: Run, name: str, prose: list[llm_eval.TextScores], found: str) -> None:
    from scipy.stats import spearmanr

    exact = torch.stack([s.svd for s in prose]).mean(0)
    fast = torch.stack([s.l12 for s in prose]).mean(0)
    over_layers = float(spearmanr(exact, fast).statistic)
    run.log(spearman_over_layers=over_layers)
    run.text(
        f"How well column norms stand in for the norm ({name})",
        f"By column norms {found} Spearman correlation of the two scores over {len(exact)} layers: {over_layers:.3f}. "
        f"At the last layer column norms are {float(fast[-1] / exact[-1]):.2f} times the exact norm.",
    )


def _picture(run: Run, name: str, prose: list[llm_eval.TextScores], flat: llm_eval.TextScores) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4), sharex=True)
    for axis, method, title in ((axes[0], "svd", "exact nuclear norm"), (axes[1], "l12", "column norms")):
        for scores in prose:
            axis.plot(getattr(scores, method), color="C0", alpha=0.5, linewidth=1.2)
        axis.plot([], color="C0", label="prose")
        axis.plot(getattr(flat, method), color="C1", linewidth=2, label="one phrase repeated")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("layer")
    axes[0].set_ylabel("norm over tokens")
    axes[0].legend()
    run.plot(f"layers of {name}", figure, f"{name}: scores of every layer; a repeated phrase collapses the spectrum.")


def experiment(run: Run, *, passages: int = 2, tokens: int = 64) -> None:
    """Measure what column norms are to the nuclear norm, and whether the score tells prose from repetition.

    Args:
        passages: how many passages of prose the quick profile scores (the full one scores 10).
        tokens: how many tokens of each are read (the full profile reads 192).
    """
    exact_on_orthogonal_columns(run)
    bound_from_above(run)
    overshoot_along_a_dense_direction(run)
    entropy_at_its_extremes(run)
    if not run.quick:
        passages, tokens = max(passages, 10), max(tokens, 192)
    prose_above_repetition(run, "all-minilm-l6-v2", passages, tokens)
    prose_above_repetition(run, "smollm2-135m", passages, tokens)
    if not run.quick:
        column_norms_by_length(run, "smollm2-135m", 6, (32, 64, 96, 128, 192))
