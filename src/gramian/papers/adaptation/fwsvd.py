"""FWSVD: low-rank factors that keep what the loss is sensitive to (Hsu et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gramian import models
from gramian.analysis.fisher import accumulator
from gramian.data.sentences import sentences
from gramian.lab import Card, Run
from gramian.linalg.factor import lowrank
from gramian.surgery import factorize

CARD = Card(
    title="Language model compression with weighted low-rank factorization",
    row=74,
    arxiv="2207.00112",
    year=2022,
    kind="method",
    idea="Before a weight is cut to low rank by singular value decomposition, its rows are scaled by the root of their "
    "summed Fisher information, and scaled back afterwards: the error goes where the loss does not feel it.",
    claim="The factors reconstruct the weight worse than the plain decomposition's but the model stays much closer to "
    "the original, so that more parameters can go.",
    keywords=("compression", "low rank", "singular value decomposition", "Fisher information", "smaller model"),
    api=(
        "gramian.surgery.factorize.fwsvd",
        "gramian.surgery.factorize.spread_ranks",
        "gramian.linalg.factor.lowrank.weighted_svd",
        "gramian.nn.low_rank.LowRankLinear",
    ),
    use='fisher = FisherAccumulator(model, params="encoder.*.weight").update(inputs, targets).value()\n'
    'report = fwsvd(model, fisher, "encoder.*", kept_ranks=0.5)',
    reach="the paper's accuracies on GLUE and of BERT-sized models need fine-tuning; here a sentence encoder is "
    "compressed without any",
    differs=(
        "An importance of zero would leave a row of the factor undetermined; importances below 1e-4 of the largest are "
        "raised to it (floor=).",
        "Besides the paper's weighting of inputs there are those of outputs and of both; inputs alone did best here.",
        "Ranks can be spread over the matrices under one budget (spread_ranks); the paper takes one ratio for all.",
    ),
    needs=("language",),
    data=("all_minilm_l6_v2",),
)

LAYERS = "encoder.layer.*"


def no_optimizer_does_better(run: Run, runs: int = 5) -> None:
    """The weighted objective against the best of several L-BFGS runs from random factors."""
    generator = run.generator()
    gaps, rows = [], []
    for rows_, columns, rank in ((14, 9, 3), (8, 12, 2)):
        a = torch.randn(rows_, columns, generator=generator, dtype=torch.float64)
        row = torch.rand(rows_, generator=generator, dtype=torch.float64) * 3 + 0.02
        found = float(lowrank.weighted_error(a, lowrank.weighted_svd(a, row, None, rank).product(), row))
        best = min(_by_lbfgs(a, row, rank, generator) for _ in range(runs))
        plain = float(lowrank.weighted_error(a, lowrank.truncated_svd(a, rank).product(), row))
        gaps.append(found - best)
        rows.append({"shape": f"{rows_} × {columns}", "rank": rank, "weighted SVD": found, "best of L-BFGS": best,
                     "plain SVD": plain})  # fmt: skip
    run.check(f"weighted error minus the best of {runs} L-BFGS runs (largest of two matrices)", max(gaps), below=1e-6)
    run.table("weighted objective", rows, "‖I (W − A B)‖ of three solutions")


def _by_lbfgs(a: Tensor, row: Tensor, rank: int, generator: torch.Generator) -> float:
    left = torch.randn(a.shape[0], rank, generator=generator, dtype=a.dtype).requires_grad_()
    right = torch.randn(rank, a.shape[1], generator=generator, dtype=a.dtype).requires_grad_()
    solver = torch.optim.LBFGS([left, right], max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = (row[:, None] * (a - left @ right)).square().sum()
        value.backward()
        return value

    solver.step(loss)
    return float(loss().detach().sqrt())


def equal_importance_is_plain(run: Run) -> None:
    """A constant Fisher matrix gives the plain decomposition."""
    net = nn.Sequential(nn.Linear(24, 16))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(16, 24, generator=run.generator(3)))
    plain = lowrank.truncated_svd(net[0].weight.detach(), 5).product()
    factorize.fwsvd(net, {"0.weight": torch.full((16, 24), 0.7)}, ranks=5)
    error = (net[0].weight.detach() - plain).norm() / plain.norm()
    run.check("constant Fisher: relative distance of the product from the plain SVD's", error, below=1e-5)


def errors_change_places(run: Run, count: int = 4) -> None:
    """On MiniLM's first attention layer: the weight is reconstructed worse, the weighted error is smaller."""
    model, tokenize = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    layers = "encoder.layer.0.attention.*"
    fisher = sentence_fisher(model, tokenize, sentences(count), f"{layers}weight")
    weights = {
        n: m.weight.detach().clone() for n, m in model.named_modules() if _is_in(n, m, "encoder.layer.0.attention.")
    }
    names = list(weights)
    ours, plain = _errors(model, layers, fisher, fisher, weights), _errors(model, layers, fisher, None, weights)
    rows = [{"matrix": n.removeprefix("encoder.layer.0.attention."), "weight, SVD": p[0], "weight, FWSVD": o[0],
             "importance-weighted, SVD": p[1], "importance-weighted, FWSVD": o[1]}
            for n, o, p in zip(names, ours, plain, strict=True)]  # fmt: skip
    run.table("errors of the first attention layer", rows, "relative errors at 50% of the ranks")
    claim = "MiniLM's first attention, 4 matrices"
    run.check(f"{claim}: error of the weight, FWSVD over SVD (least)", min(o[0] / p[0] for o, p in zip(ours, plain)),
              above=1.01, paper="reconstruction errors are not smaller")  # fmt: skip
    run.check(f"{claim}: weighted error, FWSVD over SVD (largest)", max(o[1] / p[1] for o, p in zip(ours, plain)),
              below=0.99)  # fmt: skip
    _picture_of_importance(run, fisher)


def _is_in(name: str, module: nn.Module, prefix: str) -> bool:
    return isinstance(module, nn.Linear) and name.startswith(prefix)


def _errors(
    model: nn.Module, layers: str, fisher: Mapping[str, Tensor], used: Mapping[str, Tensor] | None,
    weights: Mapping[str, Tensor],
) -> list[tuple[float, float]]:  # fmt: skip
    """Relative error of each weight, and relative error weighted by the inputs' importance."""
    if used is None:
        report = factorize.factorize(model, layers, kept_ranks=0.5)
    else:
        report = factorize.fwsvd(model, used, layers, kept_ranks=0.5)
    found = []
    for name, weight in weights.items():
        _, column = factorize.importance(fisher[f"{name}.weight"])
        product = report.handle.replacements[name].weight.detach()
        zero = torch.zeros_like(weight)
        weighted = lowrank.weighted_error(weight, product, None, column)
        whole = lowrank.weighted_error(weight, zero, None, column)
        found.append((float((weight - product).norm() / weight.norm()), float(weighted / whole)))
    report.handle.undo()
    return found


def stored_and_merged(run: Run) -> None:
    """Bytes of the file against the formula; the merged layer and the loaded one are the same function."""
    from safetensors.torch import load_file

    rank, inputs, outputs = 12, 96, 160
    net = nn.Sequential(nn.Linear(inputs, outputs))
    generator = run.generator(5)
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(outputs, inputs, generator=generator))
    report = factorize.fwsvd(net, {"0.weight": torch.rand(outputs, inputs, generator=generator)}, ranks=rank)
    tensors = load_file(run.save("factors", net))
    formula = 4 * (rank * (inputs + outputs) + outputs)
    run.check("bytes of the stored factors and bias", sum(t.nbytes for t in tensors.values()), equals=formula)
    x = torch.randn(8, inputs, generator=generator)
    with torch.no_grad():
        before = net(x)
        again = type(net[0])(inputs, outputs, rank)
        again.load_state_dict({n.removeprefix("0."): t for n, t in tensors.items()})
        report.handle.merge()
        merged = (net(x) - before).norm() / before.norm()
        loaded = (again(x) - before).abs().max()
    run.check("merged layer: relative difference of its output", merged, below=1e-5)
    run.check("loaded factors: largest difference of their output", loaded, equals=0.0)


def sentences_stay_closer(run: Run, count: int = 48, calibrate: int = 24) -> None:
    """MiniLM at 50% and 30% of the ranks, and at 60% of the parameters with ranks spread: cosine to the original."""
    model, tokenize = models.pretrained("all-minilm-l6-v2"), models.tokenizer("all-minilm-l6-v2")
    fisher = sentence_fisher(model, tokenize, sentences(calibrate), f"{LAYERS}.weight")
    texts = sentences(count, skip=calibrate)
    before = models.embed_sentences(texts, model, tokenize)
    found: dict[tuple[str, str], float] = {}
    rows = []
    settings = [("50% of the ranks", 0.5, None), ("30% of the ranks", 0.3, None), ("60%, ranks spread", None, 0.6)]
    methods = (("SVD", None, "in"), ("FWSVD", fisher, "in"), ("FWSVD, outputs", fisher, "out"))
    for label, kept, share in run.progress(settings, "compressing MiniLM"):
        for method, used, side in methods:
            if method == "FWSVD, outputs" and kept != 0.5:
                continue
            ranks = None if share is None else factorize.spread_ranks(model, share, LAYERS, fisher=used, side=side)
            if used is None:
                report = factorize.factorize(model, LAYERS, kept_ranks=kept, ranks=ranks)
            else:
                report = factorize.fwsvd(model, used, LAYERS, kept_ranks=kept, ranks=ranks, side=side)
            after = models.embed_sentences(texts, model, tokenize)
            report.handle.undo()
            found[label, method] = float((before * after).sum(1).mean())
            rows.append({"kept": label, "method": method, "cosine": found[label, method],
                         "parameters kept": report.kept})  # fmt: skip
    run.table("sentence embeddings", rows, f"mean cosine to the original's over {count} sentences it was not fitted to")
    for label, least in (("50% of the ranks", 0.05), ("30% of the ranks", 0.08), ("60%, ranks spread", 0.1)):
        gain = found[label, "FWSVD"] - found[label, "SVD"]
        run.check(f"MiniLM, {label}: cosine of FWSVD above SVD's", gain, above=least)
    _picture_of_cosines(run, found)
    run.text(
        "What the weighting buys",
        f"With half the ranks the plain decomposition keeps a mean cosine of {found['50% of the ranks', 'SVD']:.2f} to "
        f"the original embeddings, the Fisher-weighted one {found['50% of the ranks', 'FWSVD']:.2f}, at the same size "
        f"and with a larger error of the weights. The Fisher matrix comes from {calibrate} sentences and a contrastive "
        "loss among them; no weight was trained. Half the ranks of these matrices is not half their parameters: a "
        "square matrix pays only below half its rank.",
    )


def sentence_fisher(model: nn.Module, tokenize: Any, texts: list[str], params: str) -> dict[str, Tensor]:
    """The diagonal Fisher matrix of telling each sentence from the others by its embedding (temperature 0.05)."""
    batch = dict(tokenize(texts, padding=True, truncation=True, return_tensors="pt"))
    keys = models.embed_sentences(texts, model, tokenize)

    def embed(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        states = network(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    def loss(embeddings: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(embeddings @ keys.T / 0.05, targets, reduction="none")

    fisher = accumulator.FisherAccumulator(model, params=params, loss=loss, forward=embed)
    return dict(fisher.update(batch, torch.arange(len(texts))).value())


def _picture_of_importance(run: Run, fisher: Mapping[str, Tensor]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name in ("self.query", "self.key", "self.value", "output.dense"):
        _, column = factorize.importance(fisher[f"encoder.layer.0.attention.{name}.weight"], floor=0.0)
        axes.semilogy(torch.linspace(0, 1, len(column)), (column / column.max()).sort(descending=True).values,
                      label=name)  # fmt: skip
    axes.set(xlabel="share of the inputs", ylabel="importance (largest = 1)", title="Some inputs matter far more")
    axes.legend(fontsize=8)
    run.plot("importance", figure, "Root of the Fisher information, summed over each input of MiniLM's first layer.")
    run.text(
        "Why the errors change places",
        "The plain decomposition spends its rank on large weights wherever they are; the importance of the inputs "
        "spans an order of magnitude and more, and the weighted one spends it where the loss reacts.",
    )


def _picture_of_cosines(run: Run, found: Mapping[tuple[str, str], float]) -> None:
    from matplotlib import pyplot

    labels = list(dict.fromkeys(label for label, _ in found))
    figure, axes = pyplot.subplots()
    for i, method in enumerate(("SVD", "FWSVD")):
        axes.bar([j + 0.36 * i for j in range(len(labels))], [found[label, method] for label in labels], width=0.34,
                 label=method)  # fmt: skip
    axes.set_xticks([j + 0.18 for j in range(len(labels))], labels)
    axes.set(ylabel="cosine to the original", ylim=(0, 1), title="MiniLM, compressed without training")
    axes.legend()
    run.plot("cosines", figure, "Mean cosine of compressed to original sentence embeddings.")


def experiment(run: Run, *, count: int = 48) -> None:
    """Optimality of the weighted factors, what they do to errors, and MiniLM compressed with and without weights.

    Args:
        count: how many sentences the full profile embeds.
    """
    no_optimizer_does_better(run)
    equal_importance_is_plain(run)
    stored_and_merged(run)
    errors_change_places(run)
    if not run.quick:
        sentences_stay_closer(run, count)
