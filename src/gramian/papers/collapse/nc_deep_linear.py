"""Neural collapse in deep linear networks, from balanced to imbalanced data (Dang et al., 2023)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.analysis.geometry import collapse, statistics
from gramian.lab import Card, Run
from gramian.science import deep_linear_collapse, unconstrained_features
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data",
    row=194,
    arxiv="2301.00437",
    year=2023,
    kind="theory",
    idea="Take the features before a network's last linear layers as free variables and decay everything. The global "
    "minimum is known exactly: features collapse to class means, all layers align with them, and without a bias the "
    "means are orthogonal, with lengths that follow from the number of samples of each class.",
    claim="Minima have orthogonal means without bias and a simplex with one (or under cross-entropy); with imbalanced "
    "classes the lengths depend on the class sizes, and classes below a size vanish.",
    keywords=("neural collapse", "unconstrained features", "imbalanced data", "minority collapse", "simplex", "GOF"),
    api=(
        "gramian.science.unconstrained_features.UnconstrainedFeatures",
        "gramian.science.deep_linear_collapse.deep_linear_solution",
        "gramian.analysis.geometry.collapse.angle_deviation",
    ),
    use="theory = deep_linear_solution((40, 10, 3, 1), weight_decay=(1e-3, 1e-3), feature_decay=1e-3)\n"
    "best = UnconstrainedFeatures((40, 10, 3, 1), 6, (1e-3, 1e-3), 1e-3).minimize()",
    reach="VGG and ResNet on CIFAR-10 and EMNIST need GPUs; imbalanced handwritten digits stand in",
    differs=(
        "For several layers and imbalanced classes we use one scalar problem a class, derived from the balance of the "
        "layers, where the paper lists the cases of its solution.",
    ),
)

DIGITS = (100, 50, 25, 12, 6)
"""Samples of the digits 0 … 4."""


def _minimum(model: unconstrained_features.UnconstrainedFeatures, seed: int) -> unconstrained_features.Optimum:
    """The lower of two descents: with several layers, zero is a local minimum of every class."""
    starts = (torch.Generator().manual_seed(seed + k) for k in range(2 if len(model.weight_decay) > 1 else 1))
    return min((model.minimize(g) for g in starts), key=lambda found: found.value)


def deep_minimum_is_known(run: Run) -> None:
    """Three depths, four very unequal classes: the minimum found by descent against the theory."""
    from matplotlib import pyplot

    counts, rows = (40, 10, 3, 1), []
    figure, panel = pyplot.subplots(figsize=(5.6, 3.6))
    gaps, errors, balance, inner = [], [], [], []
    for depth in (1, 2, 3):
        decay = (1e-3, 2e-3, 5e-4)[:depth] if depth != 2 else (1e-3, 1e-3)
        theory = deep_linear_collapse.deep_linear_solution(counts, decay, 1e-3)
        model = unconstrained_features.UnconstrainedFeatures(counts, 5, decay, 1e-3)
        best = _minimum(model, run.seed)
        out = best.product @ best.features
        gaps.append(abs(best.value - theory.value))
        errors.append(float((out - theory.strengths[:, None] * model.targets).abs().max()))
        errors.append(float((best.features.norm(dim=0) - theory.lengths[model.labels]).abs().max()))
        for (a, b), (i, j) in zip(itertools.pairwise(best.weights), itertools.pairwise(decay)):
            balance.append(float((j * b.T @ b - i * a @ a.T).abs().max() / (i * a @ a.T).abs().max()))
        gram = best.weights[0].T @ best.weights[0] * decay[0] - best.features @ best.features.T * 1e-3
        balance.append(float(gram.abs().max() / (decay[0] * best.weights[0].square().sum())))
        means = statistics.class_statistics(best.features.T, model.labels).means
        inner.append(float(collapse.angle_deviation(means, 0.0)))
        for k, count in enumerate(counts):
            rows.append({"layers": depth, "samples": count, "strength, theory": float(theory.strengths[k]),
                         "strength, found": float(out[k, int(model.labels.eq(k).nonzero()[0])]),
                         "length, theory": float(theory.lengths[k]),
                         "length, found": float(means[k].norm())})  # fmt: skip
        if depth == 2:
            known = torch.tensor([0.99538, 0.98832, 0.97381, 0.94497])
            away = float((theory.strengths - known).abs().max())
            run.check("two layers: strengths against figures worked out before, largest error", away, below=1e-4)
        panel.plot(counts, theory.lengths, "-", color=f"C{depth}", label=f"{depth} layer(s), theory")
        panel.plot(counts, means.norm(dim=1), "o", color=f"C{depth}")
    panel.set(xscale="log", xlabel="samples of the class", ylabel="length of its features")
    panel.legend()
    run.plot("lengths", figure, "Dots: found by descent from a random start. Rare classes have longer features.")
    run.table("strengths", rows, "Strength: the output for the right class, whose target is 1.")
    run.check("minimum by descent against theory, depths 1, 2, 3 (difference)", max(gaps), below=1e-9)
    run.check("… outputs and lengths of features (largest difference)", max(errors), below=1e-4)
    run.check("neighbouring layers are balanced (relative error)", max(balance), below=1e-5,
              paper="all layers align")  # fmt: skip
    run.check("class means at right angles (mean |cosine|)", max(inner), below=1e-4, paper="orthogonal vectors")


def small_classes_vanish(run: Run, problems: int = 20) -> None:
    """One layer: random class sizes and decays, some classes below the size at which they vanish."""
    rng, gaps, errors, gone, wrong = run.rng(1), [], [], 0, 0
    for k in range(problems):
        counts = tuple(int(c) for c in np.ceil(np.exp(rng.uniform(0, 3.2, rng.integers(2, 5)))))
        total = sum(counts)
        # the size at which a class vanishes lies near some of the sizes drawn
        level = math.sqrt(float(rng.choice(counts)) * rng.choice((0.23, 0.61, 1.47))) / total
        decay = (level * float(np.exp(rng.uniform(-0.7, 0.7))),)
        feature_decay = level**2 / decay[0]
        theory = deep_linear_collapse.deep_linear_solution(counts, decay, feature_decay)
        model = unconstrained_features.UnconstrainedFeatures(counts, 5, decay, feature_decay)
        best = _minimum(model, 100 * run.seed + k)
        out = (best.product @ best.features * model.targets).sum(0)
        gaps.append(abs(best.value - theory.value))
        errors.append(float((out - theory.strengths[model.labels]).abs().max()))
        vanished = torch.tensor([c <= (total * level) ** 2 for c in counts])
        gone += int(vanished.sum())
        wrong += int((vanished != (theory.strengths == 0)).sum())
    run.check(f"{problems} random problems: minimum by descent against the closed form", max(gaps), below=1e-8)
    run.check("… outputs (largest difference)", max(errors), below=1e-3)
    run.check("… classes of at most N² λ_W λ_H samples that do not vanish, or others that do", wrong, equals=0)
    run.check("… classes that vanish among them", gone, above=5, paper="minority collapse")


def balanced_classes_form_a_simplex(run: Run) -> None:
    """The same number of samples of each class: with a bias, or under cross-entropy, the means form a simplex."""
    rows = []
    for name, loss, bias, cosine in (
        ("squared error", "mse", False, 0.0), ("squared error, bias", "mse", True, -1 / 3),
        ("cross-entropy", "ce", False, -1 / 3),
    ):  # fmt: skip
        model = unconstrained_features.UnconstrainedFeatures((6,) * 4, 5, (5e-3, 5e-3), 1e-3, loss=loss, bias=bias)
        best = _minimum(model, run.seed)
        stats = statistics.class_statistics(best.features.T, model.labels)
        off = float((collapse.cosines(stats.means) - cosine).abs().max())
        spread = float(stats.spreads.sum().sqrt())
        dual = float((best.product / best.product.norm() - stats.means / stats.means.norm()).norm())
        rows.append({"loss": name, "cosine, theory": cosine, "cosines, largest error": off, "within classes": spread,
                     "classifier − means": dual})  # fmt: skip
        run.check(f"{name}: cosines of the class means against {cosine:.3f} (largest error)", off, below=1e-4)
    run.table("balanced", rows, "Two layers, four classes of six samples.")
    run.check("within-class spread at the minimum", max(r["within classes"] for r in rows), below=1e-3, paper="NC1")
    run.check("layers as one, and class means, both of norm 1: distance", max(r["classifier − means"] for r in rows),
              below=1e-3, paper="NC3, self-duality")  # fmt: skip


class _Network(nn.Module):
    """A ReLU body with free-signed features, then linear layers without bias."""

    def __init__(self, seed: int, depth: int, classes: int) -> None:
        super().__init__()
        self.body = transfer.mlp(seed, (64, 128, 128, 32))
        widths = [32] * depth + [classes]
        generator = torch.Generator().manual_seed(seed)
        self.heads = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)))
        for layer in self.heads.parameters():
            nn.init.uniform_(layer, -(32**-0.5), 32**-0.5, generator=generator)


def _train(model: _Network, x: Tensor, y: Tensor, decay: float, feature_decay: float, steps: int, seed: int) -> None:
    """The model's own objective, with the features a network's."""

    def loss(module: Any, images: Tensor, labels: Tensor) -> Tensor:
        features = module.body(images)
        value = (module.heads(features) - F.one_hot(labels, len(DIGITS))).square().sum() / (2 * len(images))
        value = value + decay / 2 * sum(p.square().sum() for p in module.heads.parameters())
        return value + feature_decay / 2 * len(x) / len(images) * features.square().sum()

    optim.fit(
        model, (x, y), loss, steps=steps, lr=4e-3, batch_size=len(x), schedule="cosine",
        optimizer=lambda groups: torch.optim.Adam(groups), generator=torch.Generator().manual_seed(seed),
        show_progress=False,
    )  # fmt: skip


def _digits(seed: int, depth: int, decay: float, feature_decay: float, steps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    found = transfer.load_digits()
    rows = torch.cat([(found.train_labels == k).nonzero()[:n, 0] for k, n in enumerate(DIGITS)])
    x, y = found.train[rows], found.train_labels[rows]
    model = _Network(seed, depth, len(DIGITS))
    measured = {}
    for when in ("before", "after"):
        with torch.no_grad():
            features = model.body(x)
            stats, out = statistics.class_statistics(features, y), statistics.class_statistics(model.heads(features), y)
        measured[when] = {"means": stats.means, "lengths": stats.means.norm(dim=1), "strengths": out.means.diagonal()}
        if when == "before":
            _train(model, x, y, decay, feature_decay, steps, seed)
    return measured


def networks_follow(run: Run, depths: tuple[int, ...] = (1,), seeds: int = 1, steps: int = 300) -> None:
    """A network on imbalanced digits, its features decayed: its class means against the theory."""
    from matplotlib import pyplot

    settings = [(depth, 5e-3, 2e-4) for depth in depths]
    if not run.quick:
        settings.append((1, 2e-2, 1e-2))  # the rarest class is below the size that lives
    keys = [(*s, run.seed + k) for s in settings for k in range(seeds)]
    jobs = [joblib.delayed(_digits)(seed, *setting, steps) for *setting, seed in keys]
    results = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    figure, panels = pyplot.subplots(1, len(settings), figsize=(3.6 * len(settings) + 1, 3.4), squeeze=False)
    rows, angles, lengths, order = [], [], [], True
    measured = list(run.progress(results, "digits", total=len(jobs)))
    for (depth, decay, feature_decay, seed), found in zip(keys, measured):
        theory = deep_linear_collapse.deep_linear_solution(DIGITS, (decay,) * depth, feature_decay)
        alive = theory.strengths > 0
        after = found["after"]
        errors = (after["lengths"] - theory.lengths)[alive].abs() / theory.lengths[alive]
        cosine = {w: float(collapse.angle_deviation(found[w]["means"][alive], 0.0)) for w in ("before", "after")}
        rows += [{"layers": depth, "decay": decay, "seed": seed, "digit": k, "samples": n,
                  "length": float(after["lengths"][k]),
                  "length, theory": float(theory.lengths[k]), "output": float(after["strengths"][k]),
                  "output, theory": float(theory.strengths[k])} for k, n in enumerate(DIGITS)]  # fmt: skip
        panel = panels[0, settings.index((depth, decay, feature_decay))]
        panel.plot(DIGITS, theory.lengths, "-", color="C0")
        panel.plot(DIGITS, found["before"]["lengths"], ".", color="C1")
        panel.plot(DIGITS, after["lengths"], "o", color="C2")
        panel.set(xscale="log", xlabel="samples", title=f"{depth} layer(s), decays {decay:g}, {feature_decay:g}")
        if bool(alive.all()):
            angles.append(cosine)
            lengths.append(float(errors.max()))
            order = order and bool((after["lengths"].diff() > 0).all())
        else:
            gone = float(after["strengths"][~alive].max())
            run.check(f"seed {seed}: output for the digit that the theory says vanishes", gone, below=0.03,
                      paper="minority collapse")  # fmt: skip
            run.check(f"seed {seed}: … and for the next rarest, of the theory's",
                      float(after["strengths"][3] / theory.strengths[3]), between=(0.95, 1.05))  # fmt: skip
    panels[0, 0].set_ylabel("length of the class mean")
    panels[0, 0].legend(["theory", "before training", "after"])
    run.plot("digits", figure, "Class means of a network's features on 193 imbalanced digits.")
    run.table("digits", rows)
    run.check("digits: mean |cosine| of the class means after training", max(a["after"] for a in angles), below=0.1,
              paper="convergence to orthogonal vectors")  # fmt: skip
    run.check("… before training", min(a["before"] for a in angles), above=0.5)
    run.check("lengths grow from the most frequent digit to the rarest, in every training", order, equals=True)
    run.check("lengths against the theory (largest relative error)", max(lengths), below=0.12)


def experiment(run: Run, *, seeds: int = 2, steps: int = 500) -> None:
    """The exact minimum against descent, the size at which classes vanish, simplices, and networks on digits.

    Args:
        seeds: trainings of every setting on digits (full only).
        steps: of each (full only).
    """
    deep_minimum_is_known(run)
    small_classes_vanish(run)
    balanced_classes_form_a_simplex(run)
    if run.quick:
        networks_follow(run)
    else:
        networks_follow(run, (1, 2), seeds, steps)
    run.text(
        "lengths",
        "A rare class gets longer features and a shorter row of the classifier: few samples pay little feature decay. "
        "The product, its output, still falls short of 1 the more, the rarer the class, until it is zero.",
    )
