"""Wide and deep networks as optimal classifiers: what depth tends to, by activation (2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from gramian.analysis.kernels import infinite_width
from gramian.estimators.classification import infinite_depth
from gramian.lab import Card, Run

CARD = Card(
    title="Wide and Deep Neural Networks Achieve Optimality for Classification",
    row=199,
    arxiv="2204.14126",
    year=2022,
    kind="theory",
    idea="Infinitely wide networks are kernels, and depth iterates a one-dimensional map of the correlation. Three "
    "numbers of the activation say where that ends: majority vote, nearest neighbour, or a singular kernel.",
    claim="Simple explicit activations, of degree three, give a singular kernel of the exponent that the dimension "
    "asks for, so that the infinitely deep network classifies optimally in the limit of many samples; ReLU does not.",
    keywords=("neural tangent kernel", "NNGP", "infinite depth", "consistency", "nearest neighbour", "Hilbert kernel"),
    api=(
        "gramian.analysis.kernels.infinite_width.log_kernel",
        "gramian.analysis.kernels.infinite_width.taxonomy",
        "gramian.analysis.kernels.infinite_width.optimal_activation",
        "gramian.estimators.classification.infinite_depth.InfiniteDepthClassifier",
    ),
    use="activation, dual = optimal_activation(dim=3)\nInfiniteDepthClassifier(dual).fit(X, y).predict(X_test)",
    reach="consistency is a limit, reached at the pace of one over the logarithm of the samples",
    differs=(
        "The limit is measured on the Gaussian process kernel; the tangent kernel at a finite depth is steeper by 2 "
        "next to zero distance. Both are in the table.",
        "The one-dimensional sphere, which needs more Hermite terms, is not built.",
    ),
)


def _relu(x: torch.Tensor) -> torch.Tensor:
    return math.sqrt(2) * x.relu()


def _square(x: torch.Tensor) -> torch.Tensor:
    return (x**2 - 1) / math.sqrt(2)


def _sphere(rng: np.random.Generator, samples: int, dim: int) -> np.ndarray:
    """Points of the sphere of a dimension, without negative numbers."""
    x = np.abs(rng.standard_normal((samples, dim + 1)))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _chance(x: np.ndarray) -> np.ndarray:
    """The probability of the second class: stripes, so that every neighbourhood counts; the Bayes risk is 0.15."""
    return np.where(np.sin(6 * x[:, 0] + 4 * x[:, 1]) > 0, 0.85, 0.15)


def limit_has_the_exponent(run: Run, depth: int = 200) -> None:
    """The slope of the log kernel over the log distance, for the optimal activations."""
    gaps = 2.0 ** -torch.arange(10, 21, dtype=torch.float64)
    distance = (2 * gaps).sqrt()
    rows, curves = [], {}
    for dim in (2, 3, 4):
        activation, dual = infinite_width.optimal_activation(dim)
        row: dict[str, float] = {"dimension": dim, "α by the formula": infinite_width.taxonomy(activation).exponent}
        for kind in ("nngp", "ntk"):
            logs = infinite_width.log_kernel(1 - gaps, dual, depth, kind)
            row[kind] = float(np.polyfit(distance.log().numpy(), logs.numpy(), 1)[0])
            if kind == "nngp":
                curves[dim] = (logs - logs[0]).numpy()
        rows.append(row)
    run.table("slopes", rows, f"Powers of the distance with which the kernels of {depth} layers fall.")
    worst = max(abs(r["nngp"] + r["dimension"]) for r in rows)
    run.check("power of the distance in the deep kernel, from minus the dimension (worst of three)", worst, below=0.01,
              paper="α = d")  # fmt: skip
    off = max(abs(r["α by the formula"] - r["dimension"]) for r in rows)
    run.check(
        "α = −4 log A / log B by quadrature of the activation, from the dimension", off, below=1e-6, paper="α = d"
    )
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.4, 3.4))
    for dim, logs in curves.items():
        panel.plot(
            distance.log2(), logs / math.log(2), "o-", label=f"dimension {dim}: slope {rows[dim - 2]['nngp']:.3f}"
        )
    panel.set(xlabel="log₂ distance", ylabel="log₂ kernel, from its first point")
    panel.legend()
    run.plot("slopes", figure, f"Kernels of {depth} layers under the optimal activations: straight lines, as "
             "steep as the dimension.")  # fmt: skip


def duals_are_those_of_wide_layers(run: Run, width: int = 400_000) -> None:
    """φ(s) and φ'(s) against a layer of random weights."""
    cases = {
        "ReLU": (_relu, infinite_width.ReluDual()),
        "x² − 1": (_square, infinite_width.hermite_dual(_square, 3)),
        "optimal, d = 3": infinite_width.optimal_activation(3),
    }
    rows = []
    for index, (name, (activation, dual)) in enumerate(cases.items()):
        for s in (0.3, 0.8):
            g, h = torch.randn(2, width, generator=run.generator(index), dtype=torch.float64)
            h = s * g + math.sqrt(1 - s * s) * h
            g, h = torch.cat((g, -g)).requires_grad_(), torch.cat((h, -h)).requires_grad_()
            left, right = activation(g), activation(h)
            slopes = [torch.autograd.grad(v.sum(), x)[0] for v, x in ((left, g), (right, h))]
            t = torch.tensor(math.log(s), dtype=torch.float64)
            value = float(dual.log_value(t).exp())
            slope = float(dual.growth(t)) * value / s
            drawn, drawn_slope = float((left * right).mean().detach()), float((slopes[0] * slopes[1]).mean())
            rows.append({"activation": name, "correlation": s, "φ": value, "φ drawn": drawn, "φ'": slope,
                         "φ' drawn": drawn_slope})  # fmt: skip
    run.table("duals", rows, f"Closed forms against {2 * width:,} random neurons.")
    worst = max(max(abs(r["φ"] - r["φ drawn"]), abs(r["φ'"] - r["φ' drawn"]) / max(1, r["φ'"])) for r in rows)
    run.check("φ and φ' against random neurons (largest difference)", worst, below=0.015)


def taxonomy_holds(run: Run, samples: int = 250, tests: int = 300) -> None:
    """Deep kernels' predictions against the classifiers that they should tend to."""
    rng = run.rng(1)
    x, queries = _sphere(rng, samples, 2), _sphere(rng, tests, 2)
    y = (rng.random(samples) < _chance(x)).astype(int)
    activation, dual = infinite_width.optimal_activation(2)
    kinds = tuple(infinite_width.taxonomy(a).kind for a in (_relu, _square, activation))
    run.check("kinds of ReLU, x² − 1 and the optimal activation", kinds, equals=("majority", "nearest", "singular"))
    deep = {
        "ReLU": infinite_depth.InfiniteDepthClassifier(infinite_width.ReluDual(), depth=60),
        "x² − 1": infinite_depth.InfiniteDepthClassifier(infinite_width.hermite_dual(_square, 3), depth=15),
        "optimal": infinite_depth.InfiniteDepthClassifier(dual, depth=40),
    }
    found = {name: model.fit(x, y).predict(queries) for name, model in deep.items()}
    oracles = {
        "majority": np.full(tests, int(y.mean() > 0.5)),
        "1 nearest": KNeighborsClassifier(1).fit(x, y).predict(queries),
        "Hilbert": infinite_depth.HilbertKernelClassifier(2.0).fit(x, y).predict(queries),
    }
    rows = [
        {"deep network": name, **{o: float((p == v).mean()) for o, v in oracles.items()}} for name, p in found.items()
    ]
    run.table("agreement", rows, f"Shares of {tests} predictions that agree; {samples} noisy labels on a sphere.")
    for row, oracle, bound in zip(rows, oracles, (1.0, 0.998, 0.95)):
        run.check(f"{row['deep network']}: predictions like {oracle}", row[oracle], above=bound, paper="the limit")
    run.check("optimal: predictions like 1 nearest", rows[2]["1 nearest"], below=0.95, paper="another classifier")


def risk_falls(run: Run, sizes: Sequence[int], seeds: int, dim: int = 2) -> None:
    """Risk over sample sizes; the Bayes risk is 0.15."""
    models = {
        "deep, optimal": lambda: infinite_depth.InfiniteDepthClassifier(depth=40),
        "Hilbert, α = d": lambda: infinite_depth.HilbertKernelClassifier(float(dim)),
        "Hilbert, α = d/4": lambda: infinite_depth.HilbertKernelClassifier(dim / 4),
        "1 nearest": lambda: KNeighborsClassifier(1),
    }
    risks = {name: np.zeros((len(sizes), seeds)) for name in models}
    for seed in range(seeds):
        rng = run.rng(40 + seed)
        queries = _sphere(rng, 500, dim)
        chance = _chance(queries)
        for index, size in enumerate(sizes):
            x = _sphere(rng, size, dim)
            y = (rng.random(size) < _chance(x)).astype(int)
            for name, make in models.items():
                found = make().fit(x, y).predict(queries)
                risks[name][index, seed] = np.where(found == 1, 1 - chance, chance).mean()
    rows = [{"samples": s, **{n: float(v[i].mean()) for n, v in risks.items()}} for i, s in enumerate(sizes)]
    run.table("risks", rows, f"Probability of an error, mean of {seeds} seed(s); nothing can be below 0.15.")
    first, last = rows[0], rows[-1]
    for name in ("deep, optimal", "Hilbert, α = d"):
        share = (last[name] - 0.15) / (first[name] - 0.15)
        run.check(f"{name}: risk above Bayes with {sizes[-1]} samples over that with {sizes[0]}", share, below=0.7,
                  paper="tends to 0")  # fmt: skip
    run.check(f"α = d/4: risk with {sizes[-1]} samples", last["Hilbert, α = d/4"], above=0.25, paper="not consistent")
    run.check(f"1 nearest: risk with {sizes[-1]} samples", last["1 nearest"], above=0.22, paper="2·0.15·0.85 = 0.255")
    ratio = last["deep, optimal"] / last["1 nearest"]
    run.check(f"deep, optimal: risk over the nearest neighbour's, {sizes[-1]} samples", ratio, below=0.85,
              paper="tends to 0.15 / 0.255")  # fmt: skip
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.6, 3.4))
    for name, values in risks.items():
        panel.plot(sizes, values.mean(1), "o--" if name.startswith("Hilbert, α = d") and name.endswith("d") else "o-",
                   label=name)  # fmt: skip
    panel.axhline(0.15, color="C5", lw=1, ls=":")
    panel.set(xscale="log", xlabel="samples", ylabel="risk", ylim=(0.1, None))
    panel.legend(fontsize=8)
    caption = (
        "Noisy labels on a sphere; dotted: the least risk there is. A deep network with the right activation is on its "
        "way there; the nearest neighbour and a kernel that is too flat are not."
    )
    run.plot("risks", figure, caption)


def experiment(run: Run, *, seeds: int = 3) -> None:
    """Exponents, duals, the three limits, and risks over sample sizes.

    Args:
        seeds: draws of the classification problem (full only).
    """
    limit_has_the_exponent(run)
    duals_are_those_of_wide_layers(run)
    taxonomy_holds(run)
    if run.quick:
        risk_falls(run, (50, 300, 1200), 1)
    else:
        risk_falls(run, (50, 200, 1000, 2500), seeds)
    run.text(
        "what it shows",
        "Depth alone decides little: with ReLU an infinitely deep network forgets its input and says the majority's "
        "label, with x² − 1 it copies the nearest neighbour, noise and all. Between the two, an activation of degree "
        "three makes it weigh its neighbours by one over the distance to the power of the dimension: that is optimal.",
    )
