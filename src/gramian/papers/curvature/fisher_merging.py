"""Fisher merging: average networks number by number, weighed by their Fisher matrices (Matena & Raffel, 2021)."""

from __future__ import annotations

import copy
import functools
import itertools
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor, nn

from gramian.analysis.fisher import accumulator
from gramian.lab import Card, Run
from gramian.surgery.adapters import transfer
from gramian.surgery.merge import fisher as merge

CARD = Card(
    title="Merging Models with Fisher-Weighted Averaging",
    row=72,
    arxiv="2111.09832",
    year=2021,
    kind="method",
    idea="A plain average of networks treats every weight of every network as equally certain. The diagonal Fisher "
    "matrix says how certain each is; the merge is the peak of the product of the networks' Gaussian posteriors.",
    claim="Fisher-weighted averages of networks from one starting point do better than plain averages.",
    keywords=("model merging", "model soup", "Laplace approximation", "averaging", "multi-task"),
    api=(
        "gramian.surgery.merge.fisher.fisher_merge",
        "gramian.surgery.merge.fisher.isotropic_merge",
        "gramian.surgery.merge.fisher.search_weights",
        "gramian.analysis.fisher.accumulator.FisherAccumulator",
    ),
    use="fishers = [FisherAccumulator(m, source='true').update(x).value() for m in models]\n"
    "model.load_state_dict(fisher_merge(models, fishers, weights=(0.5, 0.5)))",
    reach="BERT and RoBERTa on GLUE and ImageNet models in the dozens are not trained here; experts on digits stand in",
    differs=(
        "Running statistics and other tensors without a Fisher matrix are refused where they differ, not averaged "
        "silently.",
        "Networks that point in unrelated directions bring a warning: the Laplace picture needs one starting point.",
    ),
)


def true_fisher_of_softmax_regression(run: Run) -> None:
    """The Fisher matrix used for merging against its closed form, and drawn labels converging to it."""
    generator = run.generator()
    model = nn.Linear(6, 4).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    p = model(x).softmax(-1).detach()
    exact = torch.einsum("nk,nd->kd", p * (1 - p), x.square()) / len(x)
    true = accumulator.FisherAccumulator(model, source="true").update(x).value()["weight"]
    run.check("diagonal true Fisher against mean x² p (1 − p) (relative error)", _gap(true, exact), below=1e-6)
    gaps = []
    for draws in (1, 16, 256):
        drawn = accumulator.FisherAccumulator(model, source="mc", draws=draws, generator=run.generator(draws))
        gaps.append(_gap(drawn.update(x).value()["weight"], exact))
    run.check("error of 256 drawn labels a sample over that of one (1/16 expected)", gaps[2] / gaps[0],
              between=(0.02, 0.2))  # fmt: skip


def shards_of_a_regression(run: Run) -> None:
    """Least squares on shards whose designs have orthogonal columns: the merge is least squares on all data."""
    generator = run.generator(1)
    models, fishers, sizes, xs, ys = [], [], (40, 90, 200), [], []
    for size in sizes:
        basis = torch.linalg.qr(torch.randn(size, 7, generator=generator, dtype=torch.float64)).Q
        x = basis * (1 + 5 * torch.rand(7, generator=generator, dtype=torch.float64)) * size**0.5
        y = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        model = nn.Linear(7, 2, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
        models.append(model)
        fishers.append(accumulator.FisherAccumulator(model, source="true", loss="gaussian").update(x).value())
        xs.append(x)
        ys.append(y)
    merged = _quietly(merge.fisher_merge, models, fishers, sizes)["weight"]
    pooled = torch.linalg.lstsq(torch.cat(xs), torch.cat(ys)).solution.T
    run.check("merge of three shards against least squares on all data", _gap(merged, pooled), below=1e-6)
    plain = _quietly(merge.isotropic_merge, models, sizes)["weight"]
    run.check("distance of the plain average from it", _gap(plain, pooled), above=0.05)


def limits(run: Run) -> None:
    """Equal Fisher matrices give the plain average, an overwhelming one its network; the order does not matter."""
    generator = run.generator(2)
    base = torch.randn(30, generator=generator, dtype=torch.float64)
    states = [{"w": base + 0.3 * torch.randn(30, generator=generator, dtype=torch.float64)} for _ in range(3)]
    fishers = [{"w": 0.1 + torch.rand(30, generator=generator, dtype=torch.float64)} for _ in range(3)]
    same = merge.fisher_merge(states, [fishers[0]] * 3)["w"]
    run.check("equal Fisher matrices against the plain average",
              _gap(same, sum(s["w"] for s in states) / 3), below=1e-12)  # fmt: skip
    strong = merge.fisher_merge(states, [fishers[0], {"w": 1e14 * fishers[1]["w"]}, fishers[2]])["w"]
    run.check("one overwhelming matrix against its network", _gap(strong, states[1]["w"]), below=1e-9)
    orders = [merge.fisher_merge([states[i] for i in o], [fishers[i] for i in o])["w"] for o in
              itertools.permutations(range(3))]  # fmt: skip
    run.check("greatest difference between orders", max(_gap(o, orders[0]) for o in orders), below=1e-12)
    weighed = sum(s["w"] * f["w"] for s, f in zip(states, fishers)) / sum(f["w"] for f in fishers)
    run.check("three networks against the formula", _gap(orders[0], weighed), below=1e-12)


def experts_on_digits(run: Run, seeds: int = 8, steps: int = 400, lr: float = 2e-3) -> None:
    """One weak start, two experts on five digits each, merged with a weight tuned on a validation split."""
    digits = transfer.load_digits()
    x, y = digits.train, digits.train_labels
    held, rest = slice(0, 200), slice(200, None)
    rows, curves = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "merging experts"):
        start = transfer.mlp(seed, (64, 64, 64, 10))
        transfer.train(start, x[rest][:300], y[rest][:300], steps=30, lr=1e-3, seed=seed)
        experts, fishers = [], []
        for classes in (range(5), range(5, 10)):
            mine = torch.isin(y[rest], torch.tensor(list(classes)))
            expert = copy.deepcopy(start)
            transfer.train(expert, x[rest][mine], y[rest][mine], steps=steps, lr=lr, seed=seed)
            experts.append(expert)
            fishers.append(accumulator.FisherAccumulator(expert, source="true").update(x[rest][mine]).value())
        row: dict[str, Any] = {"seed": seed}
        for name, how in (
            ("plain", functools.partial(merge.isotropic_merge, experts)),
            ("Fisher", functools.partial(merge.fisher_merge, experts, fishers, normalize=True)),
        ):
            score = functools.partial(_score, start, x=x[held], y=y[held])
            weights, _, tried = merge.search_weights(how, score, 2, 11)
            row |= {name: _score(start, how(weights), digits.test, digits.test_labels), f"{name} weight": weights[0]}
            curves.append((name, [t[0][0] for t in tried], [t[1] for t in tried]))
        row["experts"] = float(np.mean([transfer.accuracy(e, digits.test, digits.test_labels) for e in experts]))
        rows.append(row)
        run.log(**row)
    run.table("digits", rows, "Test accuracy on all ten digits; weights tuned on 200 held-out training samples.")
    mean = {k: float(np.mean([r[k] for r in rows])) for k in ("plain", "Fisher", "experts")}
    gains = np.array([r["Fisher"] - r["plain"] for r in rows])
    run.check(f"Fisher merge's accuracy above the tuned plain average ({seeds} seeds)", float(gains.mean()), above=0.02,
              paper="gains of up to a few points on GLUE; not reproduced here")  # fmt: skip
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for i, name in enumerate(("plain", "Fisher")):
        lines = [c for c in curves if c[0] == name]
        for _, at, scores in lines:
            axes.plot(at, scores, color=f"C{i}", alpha=0.25, lw=0.8)
        axes.plot(lines[0][1], np.mean([c[2] for c in lines], 0), color=f"C{i}", lw=2, label=name)
    axes.set(xlabel="weight of the expert for 0 … 4", ylabel="validation accuracy", title="Two experts on digits")
    axes.legend()
    run.plot("weights", figure, "Thin: single pairs of experts; thick: their mean.")
    run.text(
        "What is seen",
        f"Experts alone read {mean['experts']:.2f} of all test digits on average, the tuned plain average "
        f"{mean['plain']:.3f}, the tuned Fisher merge {mean['Fisher']:.3f}; it is ahead in {int((gains > 0).sum())} of "
        f"{seeds} pairs (gain {gains.mean():+.3f} ± {gains.std(ddof=1) / seeds**0.5:.3f}, standard error).",
    )


def _score(model: nn.Module, state: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    probe = copy.deepcopy(model)
    probe.load_state_dict(state)
    return transfer.accuracy(probe, x, y)


def _quietly(function: Any, *arguments: Any) -> Any:
    import warnings

    with warnings.catch_warnings():  # regressions on noise have no common start
        warnings.simplefilter("ignore", merge.DifferentStart)
        return function(*arguments)


def _gap(measured: Tensor, exact: Tensor) -> float:
    return float((measured.detach() - exact).norm() / exact.norm())


def experiment(run: Run, *, seeds: int = 8) -> None:
    """Closed forms of the Fisher matrix and of the merge, and two experts on digits merged.

    Args:
        seeds: how many pairs of experts the full profile merges (the quick one two).
    """
    true_fisher_of_softmax_regression(run)
    shards_of_a_regression(run)
    limits(run)
    experts_on_digits(run, 2 if run.quick else seeds)
