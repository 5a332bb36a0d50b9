"""WeLore: low rank where the spectrum allows it, and training there alone (Jaiswal et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gramian import models, optim
from gramian.analysis import gradient_rank, perplexity
from gramian.data import text
from gramian.data.sentences import sentences
from gramian.lab import Card, Run
from gramian.surgery import welore

CARD = Card(
    title="From GaLore to WeLore: How Low-Rank Weights Non-uniformly Emerge from Low-Rank Gradients",
    row=44,
    arxiv="2407.11239",
    year=2024,
    kind="method",
    idea="Each matrix's singular values are divided by its largest, and one threshold on all of them decides every "
    "rank. Matrices that become low rank are stored as factors and trained; the others stay dense and frozen.",
    claim="Ranks differ widely between matrices, and cutting each by one threshold loses less than cutting all alike; "
    "training only the low-rank ones mends the model.",
    keywords=("compression", "non-uniform rank", "singular values", "memory-efficient fine-tuning", "threshold"),
    api=(
        "gramian.surgery.welore.plan",
        "gramian.surgery.welore.apply_plan",
        "gramian.surgery.allocate.allocate",
        "gramian.analysis.gradient_rank.GradientRanks",
    ),
    use='planned = plan(model, reduction=0.5, layers="encoder.*")\nhandle = apply_plan(model, planned)',
    reach="LLaMA-2 7B and 13B, their throughput and their memory are out of reach; MiniLM and SmolLM2-135M stand in",
    differs=(
        "The reduction counts ranks, as the paper's does; two factors only hold fewer numbers below a break-even rank, "
        "so the plan also says for which matrices they pay.",
        "Found here: under the same budget of ranks the absolute singular values, spent greedily, leave a smaller "
        "squared error than the normalized ones (as they must) and at 30, 50 and 70% also better embeddings.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2", "smollm2_135m"),
)

MINILM = "encoder.layer.*"


def planted_ranks_are_found(run: Run) -> None:
    """Matrices of known rank with small noise: every rank exactly, and the one of full rank flagged."""
    generator, size, true = run.generator(), 64, (4, 11, 25, 64)
    net = nn.Sequential(*(nn.Linear(size, size) for _ in true))
    for layer, rank in zip(net, true, strict=True):
        u, v = (torch.linalg.qr(torch.randn(size, size, generator=generator)).Q for _ in range(2))
        s = torch.cat((torch.linspace(3, 1.5, rank), 0.02 * torch.rand(size - rank, generator=generator)))
        with torch.no_grad():
            layer.weight.copy_(u * s @ v)
    planned = welore.plan(net, float(np.mean([1 - r / size for r in true])))
    run.check("planted ranks 4, 11, 25, 64 of 64, as planned", tuple(planned.ranks.values()), equals=true)
    kinds = tuple(c.kind for c in planned.components.values())
    run.check("which are low rank components", kinds, equals=("LRC", "LRC", "LRC", "N-LRC"))
    x = torch.randn(32, size, generator=generator)
    with torch.no_grad():
        before = net(x)
        with welore.apply_plan(net, planned):
            error = float((net(x) - before).norm() / before.norm())
    run.check("relative change of the output at the planted ranks", error, between=(1e-6, 0.05))


def threshold_hits_the_target(run: Run) -> None:
    """On MiniLM's 36 matrices: the reduction reached, its order, and what spread of ranks the threshold gives."""
    model = models.pretrained("all-minilm-l6-v2")
    spectra, shapes = _spectra(model)
    targets = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    plans = [welore.plan_spectra(spectra, shapes, t) for t in targets]
    run.check("MiniLM: largest distance of the reduction from its target, 10 … 70%",
              max(abs(p.reduction - t) for p, t in zip(plans, targets, strict=True)), below=0.005)  # fmt: skip
    steps = np.diff([p.threshold for p in plans])
    run.check("MiniLM: least rise of the threshold from one target to the next", steps.min(), above=1e-3,
              paper="LLaMA-2 7B: 0.0225, 0.084, 0.115, 0.145, 0.175, 0.215, 0.26")  # fmt: skip
    shares = {n.removeprefix("encoder.layer."): c.rank / c.full for n, c in plans[4].components.items()}
    half, least, most = list(shares.values()), min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    run.check("MiniLM at 50%: largest rank share above the least", max(half) - min(half), above=0.4)
    run.table(
        "plans for MiniLM",
        [{"reduction": t, "threshold": p.threshold, "least rank share": min(c.rank / c.full for c in found),
          "largest rank share": max(c.rank / c.full for c in found), "LRC": sum(c.kind == "LRC" for c in found),
          "factors pay": sum(c.pays for c in found)}
         for t, p in zip(targets, plans, strict=True) for found in [list(p.components.values())]],
        "36 matrices; factors pay where they hold fewer numbers than the matrix",
    )  # fmt: skip
    errors = {}
    for name, planned in (("WeLore", plans[4]), ("greedy", welore.plan_spectra(spectra, shapes, 0.5, solver="greedy")),
                          ("uniform", _uniform(spectra, 0.5))):  # fmt: skip
        errors[name] = sum(float(s[planned.ranks[n] :].square().sum()) for n, s in spectra.items())
    run.check("squared error at 50%: greedy on absolute values over the better of WeLore and uniform",
              errors["greedy"] / min(errors["WeLore"], errors["uniform"]), below=0.9)  # fmt: skip
    _picture_of_ranks(run, plans[4])
    run.text(
        "One threshold, many ranks",
        f"At half the ranks in all, the threshold {plans[4].threshold:.3f} keeps from {100 * min(half):.0f}% to "
        f"{100 * max(half):.0f}% of a matrix's rank (layers and matrices {least} and {most}). In squared "
        f"error the normalized values ({errors['WeLore']:.0f}) are no better than equal ranks "
        f"({errors['uniform']:.0f}): absolute values spent greedily leave {errors['greedy']:.0f}.",
    )


def gradients_are_measured(run: Run) -> None:
    """Stable ranks of a layer's gradient against their closed form: one sample has one direction, n equal ones n."""
    found = {}
    for samples in (1, 6):
        layer = nn.Linear(12, 12, bias=False)
        record = gradient_rank.GradientRanks(layer)
        (layer(torch.eye(12)[:samples]) * torch.eye(12)[:samples]).sum().backward()
        record.record()
        found[samples] = record.mean("weight")
    run.check("stable rank of the gradient of 1 and of 6 orthogonal samples", tuple(found.values()), equals=(1.0, 6.0))


def threshold_beats_equal_ranks(run: Run, count: int = 48) -> None:
    """MiniLM without training: the cosine of embeddings at 30, 50 and 70% reduction, by WeLore and equal ranks."""
    model, tokenize = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    spectra, shapes = _spectra(model)
    texts = sentences(count)
    before = models.embed_sentences(texts, model, tokenize)
    rows = []
    for reduction in run.progress((0.3, 0.5, 0.7), "cutting MiniLM"):
        plans = {"WeLore": welore.plan_spectra(spectra, shapes, reduction), "equal ranks": _uniform(spectra, reduction),
                 "greedy": welore.plan_spectra(spectra, shapes, reduction, solver="greedy")}  # fmt: skip
        row: dict[str, float] = {"reduction": reduction}
        for name, planned in plans.items():
            with welore.apply_plan(model, planned, everything=True, freeze=False):
                row[name] = float((models.embed_sentences(texts, model, tokenize) * before).sum(1).mean())
        run.check(f"MiniLM, {100 * reduction:.0f}% fewer ranks: cosine of WeLore above equal ranks'",
                  row["WeLore"] - row["equal ranks"], above=0.02)  # fmt: skip
        rows.append(row)
    run.table("cosine of embeddings", rows, f"mean over {count} sentences; no training")
    _picture_of_cosines(run, rows)


def training_the_components_mends(run: Run, steps: int = 24) -> None:
    """SmolLM2 at 20% fewer ranks: low rank components cut, then trained alone on other texts."""
    model, tokenize = models.pretrained("smollm2-135m"), models.tokenizer("smollm2-135m")
    ids = torch.tensor(tokenize(text.descriptions()).input_ids)
    base = perplexity.negative_log_likelihood(model, ids[:512])
    planned = welore.plan(model, 0.2, "model.layers.*", min_ratio=0.25)
    handle = welore.apply_plan(model, planned)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cut = perplexity.negative_log_likelihood(model, ids[:512])
    train = torch.tensor(tokenize("\n\n".join(text.passages(12)[1:])).input_ids)  # the first describes a data set
    windows = train[: len(train) // 96 * 96].reshape(-1, 96)

    def loss(network: nn.Module, batch: Tensor) -> Tensor:
        logits = network(batch).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    history = optim.fit(model, (windows,), loss, steps=steps, batch_size=1, lr=3e-4, schedule="cosine", clip=1.0,
                        generator=run.generator(8), what="training the low rank components",
                        show_progress=run.show_progress)  # fmt: skip
    mended = perplexity.negative_log_likelihood(model, ids[:512])
    share = (cut - mended) / (cut - base)
    run.check(f"SmolLM2: share of the lost nats a token regained in {steps} steps on other texts", share, above=0.6,
              paper="50% smaller LLaMA-2 7B, tuned, outperforms full tuning")  # fmt: skip
    components = [c for c in planned.components.values() if c.kind == "LRC"]
    run.table(
        "SmolLM2",
        [{"model": "as it came", "perplexity": math.exp(base)},
         {"model": f"{len(components)} of {len(planned.components)} matrices cut", "perplexity": math.exp(cut)},
         {"model": f"{steps} steps on their factors", "perplexity": math.exp(mended)}],
        f"on 511 tokens of the fixed text; {trained:,} of 134,515,008 parameters are trained "
        f"({history.rows[-1]['seconds'] / steps:.2f} s a step)",
    )  # fmt: skip
    handle.undo()


def gradients_and_ranks(run: Run, batches: int = 3) -> None:
    """MiniLM: do matrices with gradients of few directions have low rank? Reported, not gated."""
    from scipy.stats import spearmanr

    model, tokenize = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    spectra, shapes = _spectra(model)
    planned = welore.plan_spectra(spectra, shapes, 0.5)
    record = gradient_rank.GradientRanks(model, f"{MINILM}.weight")
    for i in range(batches):
        texts = sentences(8, skip=8 * i)
        keys = models.embed_sentences(texts, model, tokenize)
        batch = tokenize(texts, padding=True, truncation=True, return_tensors="pt")
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        embedded = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        model.zero_grad()
        nn.functional.cross_entropy(embedded @ keys.T / 0.05, torch.arange(len(texts))).backward()
        record.record()
    model.zero_grad()
    ranks = [record.mean(f"{n}.weight") for n in spectra]
    shares = [c.rank / c.full for c in planned.components.values()]
    statistic = float(spearmanr(ranks, shares).statistic)
    run.log(spearman=statistic)
    run.text(
        "Gradients and ranks",
        f"Over MiniLM's 36 matrices the stable rank of the gradients (contrastive loss, {batches} batches) lies "
        f"between {min(ranks):.1f} and {max(ranks):.1f} of 384; its Spearman correlation with the share of rank that "
        f"WeLore keeps is {statistic:.2f}. The paper traces low rank weights to low rank gradients "
        "during pretraining, which cannot be watched here.",
    )


def _spectra(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    spectra = welore.spectra_of(model, MINILM)
    return spectra, {n: tuple(model.get_submodule(n).weight.shape) for n in spectra}


def _uniform(spectra: Mapping[str, Tensor], reduction: float) -> welore.Plan:
    ranks = {n: max(1, round((1 - reduction) * len(s))) for n, s in spectra.items()}
    parts = {n: welore.Component(r, len(spectra[n]), "LRC", r < len(spectra[n]) / 2) for n, r in ranks.items()}
    return welore.Plan(parts, float("nan"), reduction)


def _picture_of_ranks(run: Run, planned: welore.Plan) -> None:
    from matplotlib import pyplot

    kinds = {"query": "query", "key": "key", "value": "value", "attention.output.dense": "attention out",
             "intermediate.dense": "MLP in"}  # fmt: skip
    figure, axes = pyplot.subplots()
    for end, label in kinds.items():
        found = [c.rank / c.full for n, c in planned.components.items() if n.endswith(end)]
        axes.plot(range(1, len(found) + 1), found, marker="o", ms=4, label=label)
    rest = [c for n, c in planned.components.items() if n.endswith("output.dense") and "attention" not in n]
    axes.plot(range(1, len(rest) + 1), [c.rank / c.full for c in rest], marker="o", ms=4, label="MLP out")
    axes.set(xlabel="layer", ylabel="share of the rank kept", ylim=(0, 1), title="One threshold, half the ranks")
    axes.legend(fontsize=8, ncols=2)
    run.plot("ranks", figure, "Ranks that WeLore's threshold gives MiniLM's matrices at 50% reduction.")


def _picture_of_cosines(run: Run, rows: list[dict[str, float]]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name in ("greedy", "WeLore", "equal ranks"):
        axes.plot([100 * r["reduction"] for r in rows], [r[name] for r in rows], marker="o", label=name)
    axes.set(xlabel="ranks given up, %", ylabel="cosine to the original", title="MiniLM, cut without training")
    axes.legend()
    run.plot("cosines", figure, "Mean cosine of embeddings; greedy spends the ranks on absolute singular values.")


def experiment(run: Run, *, count: int = 48, steps: int = 24) -> None:
    """Planted ranks, the threshold on MiniLM, its effect on embeddings, and SmolLM2 mended by its components.

    Args:
        count: how many sentences the full profile embeds.
        steps: of training the low rank components, in the full profile.
    """
    planted_ranks_are_found(run)
    gradients_are_measured(run)
    threshold_hits_the_target(run)
    if not run.quick:
        threshold_beats_equal_ranks(run, count)
        gradients_and_ranks(run)
        training_the_components_mends(run, steps)
