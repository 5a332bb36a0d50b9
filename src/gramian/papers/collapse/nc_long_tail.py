"""Neural collapse brought about on long-tailed classes by two regularizers of the features (2023)."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from gramian import optim
from gramian.analysis.geometry import collapse as measures
from gramian.analysis.geometry import statistics
from gramian.data.synthetic import longtail
from gramian.lab import Card, Run
from gramian.objectives import collapse
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Inducing Neural Collapse in Deep Long-tailed Learning",
    row=157,
    arxiv="2302.12453",
    year=2023,
    kind="method",
    idea="Two terms added to any loss: one pulls features to their class's running mean, every class counting alike, "
    "the other pushes each class mean away from its nearest neighbour in angle.",
    claim="With them, networks trained on long-tailed classes show neural collapse as balanced ones do: class means "
    "form a regular simplex and features fall onto them; generalization gets better.",
    keywords=("long tail", "class imbalance", "simplex", "equiangular tight frame", "regularizer", "re-weighting"),
    api=(
        "gramian.objectives.collapse.NCRegularizer",
        "gramian.objectives.collapse.min_angle",
        "gramian.objectives.collapse.within_class",
        "gramian.data.synthetic.longtail.exponential_counts",
    ),
    use="regularizer = NCRegularizer(classes=10, dim=64, within=0.05, between=0.5)\n"
    "loss = cross_entropy(head(h), y) + regularizer(h, y).total",
    reach="accuracies on CIFAR-LT and ImageNet-LT; digits stand in",
    differs=(
        "Balanced accuracy does not gain here: on digits with 100 to 2 samples a class the regularized networks end 1 "
        "to 3 points below the plain ones for all weights tried. Shown in a table, not judged.",
        "How means are averaged over batches is ours: exponentially, with momentum 0.9.",
    ),
)

COUNTS = (100, 50.0, 10)


def simplex_is_the_optimum(run: Run, steps: int = 500) -> None:
    """Free vectors under the angle term alone: do they become a regular simplex?"""
    rows: list[dict[str, Any]] = []
    for classes, dim in ((4, 3), (4, 8), (10, 9), (10, 32)):
        means = torch.randn(classes, dim, generator=run.generator(classes + dim)).requires_grad_()
        tuner = torch.optim.Adam([means], lr=0.05)
        scheduler = torch.optim.lr_scheduler.LinearLR(tuner, 1.0, 0.001, steps)
        start = measures.cosines((means - means.mean(0)).detach())
        for _ in range(steps):
            tuner.zero_grad()
            collapse.min_angle(means).backward()
            tuner.step()
            scheduler.step()
        found = measures.cosines((means - means.mean(0)).detach())
        goal = -1 / (classes - 1)
        rows.append({"classes": classes, "dimensions": dim, "goal": goal, "largest at the start": float(start.max()),
                     "smallest": float(found.min()), "largest": float(found.max())})  # fmt: skip
    run.table("simplex", rows, f"Cosines of centred free vectors after {steps} steps on the angle term alone.")
    worst = max(max(abs(r["smallest"] - r["goal"]), abs(r["largest"] - r["goal"])) for r in rows)
    run.check("angle term alone: cosines from −1/(K − 1), worst pair of four settings", worst, below=0.01,
              paper="the simplex is optimal")  # fmt: skip


def gradients_are_right(run: Run) -> None:
    """The pull to the class means against a loop over classes; the push where means coincide or oppose."""
    h = torch.randn(40, 6, generator=run.generator(0), dtype=torch.float64).requires_grad_()
    y = torch.randint(0, 5, (40,), generator=run.generator(1))
    means = torch.randn(7, 6, generator=run.generator(2), dtype=torch.float64)
    (ours,) = torch.autograd.grad(collapse.within_class(h, y, means), h)
    present = y.unique()
    naive = sum((h[y == k] - means[k]).square().sum(1).mean() for k in present) / len(present)
    (theirs,) = torch.autograd.grad(naive, h)
    run.check("pull: gradient against a loop over the classes (largest difference)", (ours - theirs).abs().max(),
              below=1e-6)  # fmt: skip
    worst, angles = 0.0, []
    for pair in ([[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]):
        points = torch.tensor(pair, dtype=torch.float64, requires_grad=True)
        value = collapse.min_angle(points)
        (slope,) = torch.autograd.grad(value, points)
        worst = max(worst, float((~torch.isfinite(slope)).sum()))
        angles.append(float(-value.detach()))
    run.check("push: entries of its gradient that are not finite, where means coincide or oppose", worst, equals=0.0)
    # two at the same place have angle 0, the third is opposite both: (0 + 0 + π) / 3
    run.check("push: value where two of three coincide, from π/3", abs(angles[0] - np.pi / 3), below=1e-6)


def _trained(seed: int, regularizer: Any, balanced: bool, steps: int) -> tuple[dict[str, float], np.ndarray]:
    """Measures on the training rows and balanced test accuracy of one training; and its class means' cosines."""
    torch.set_num_threads(1)
    digits = transfer.load_digits()
    generator = torch.Generator().manual_seed(seed)
    counts = longtail.exponential_counts(*COUNTS)
    rows = longtail.long_tailed_rows(digits.train_labels, counts, generator)
    x, y = digits.train[rows], digits.train_labels[rows]
    layers = transfer.mlp(seed, (64, 128, 64, 10))
    network = nn.Sequential(*layers[:-2], layers[-1])  # features may have any sign: no ReLU before the last layer
    weight = None
    if balanced:
        found = compute_class_weight("balanced", classes=np.arange(10), y=y.numpy())
        weight = torch.tensor(found / found.mean(), dtype=torch.float32)

    def loss(module: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
        features = module[:-1](images)
        value = F.cross_entropy(module[-1](features), labels, weight=weight)
        return value if regularizer is None else value + regularizer(features, labels).total

    optim.fit(network, (x, y), loss, steps=steps, lr=2e-3, batch_size=len(x), generator=generator, show_progress=False)
    with torch.no_grad():
        stats = statistics.class_statistics(network[:-1](x), y)
        right = (network(digits.test).argmax(1) == digits.test_labels).double()
    accuracy = torch.stack([right[digits.test_labels == k].mean() for k in range(10)])
    unit = F.normalize(stats.centred_means, dim=1)
    return {
        "angles": float(measures.angle_deviation(stats.centred_means)),
        "within/between": float(measures.nc1(stats, "trace")),
        "balanced accuracy": float(accuracy.mean()),
        "rare five": float(accuracy[5:].mean()),
    }, (unit @ unit.mT).numpy()


def digits_collapse(
    run: Run, seeds: int = 2, steps: int = 600, losses: tuple[str, ...] = ("plain", "weighted")
) -> None:
    """Long-tailed digits, cross-entropy plain and weighted by class, with and without the regularizer."""
    settings = [(name, with_it) for name in losses for with_it in (False, True)]
    jobs = [
        joblib.delayed(_trained)(
            run.seed + s, collapse.NCRegularizer(10, 64, 0.05, 0.5) if with_it else None, name == "weighted", steps
        )
        for name, with_it in settings for s in range(seeds)
    ]  # fmt: skip
    outcomes = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    found = list(run.progress(outcomes, "long tails", total=len(jobs)))
    rows = []
    grouped = {}
    for index, (name, with_it) in enumerate(settings):
        part = found[index * seeds : (index + 1) * seeds]
        grouped[name, with_it] = part
        label = f"{name} cross-entropy" + (", regularized" if with_it else "")
        rows.append({"loss": label, **{k: float(np.mean([p[0][k] for p in part])) for k in part[0][0]}})
    caption = (
        f"Digits, 100 to 2 a class; {steps} steps, means over {seeds} seed(s). Angles: mean distance of the class "
        "means' cosines from −1/9. Accuracies on held-out digits, every class alike."
    )
    run.table("digits", rows, caption)
    for name in losses:
        plain, regular = grouped[name, False], grouped[name, True]
        for what, least, most in (("angles", 0.2, 0.05), ("within/between", 0.15, 0.05)):
            claim = f"{name} cross-entropy: {what}"
            run.check(f"{claim}, least over seeds", min(p[0][what] for p in plain), above=least)
            run.check(f"{claim}, regularized, most over seeds", max(p[0][what] for p in regular), below=most,
                      paper="collapse")  # fmt: skip
    _plot(run, grouped, losses)


def _plot(run: Run, grouped: dict[Any, Any], losses: tuple[str, ...]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2 * len(losses), figsize=(3.2 * 2 * len(losses) + 0.8, 3.2))
    image = None
    for panel, (key, part) in zip(panels, grouped.items()):
        image = panel.imshow(part[0][1], vmin=-1, vmax=1, cmap="coolwarm")
        panel.set(title=f"{key[0]}{', regularized' if key[1] else ''}", xlabel="class, from frequent to rare")
        panel.grid(False)
    figure.colorbar(image, ax=list(panels), label="cosine", shrink=0.8)
    run.plot("cosines", figure, "Cosines between centred class means, one seed: 100 samples of class 0, 2 of class 9. "
             "A regular simplex has −1/9 everywhere off the diagonal.")  # fmt: skip


def experiment(run: Run, *, seeds: int = 2, steps: int = 600) -> None:
    """The angle term's optimum, gradients, and long-tailed digits with and without the two terms.

    Args:
        seeds: trainings per setting (full only).
        steps: of each (full only).
    """
    simplex_is_the_optimum(run)
    gradients_are_right(run)
    if run.quick:
        digits_collapse(run, 1, 300, ("plain",))
    else:
        digits_collapse(run, seeds, steps)
    run.text(
        "what it shows",
        "Left to itself, cross-entropy leaves the class means at all kinds of angles, and the features of a class far "
        "from falling on its mean. Two terms on the features make the means a regular simplex and put the features on "
        "them, rare classes included. On these digits that buys no accuracy: what the network knows of a class with "
        "two samples is not more for being tidier.",
    )
