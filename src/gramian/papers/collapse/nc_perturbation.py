"""Perturbation analysis of neural collapse: features that stay near given ones (Tirer et al., 2022)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from gramian import optim
from gramian.analysis.geometry import collapse, statistics
from gramian.lab import Card, Run
from gramian.science import near_features, unconstrained_features
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Perturbation Analysis of Neural Collapse",
    row=193,
    arxiv="2210.16658",
    year=2022,
    kind="theory",
    idea="Let the features of the last layer move only in the vicinity of given ones, such as those of an earlier "
    "layer. On the path where the classifier is always at its best, variability within classes falls at every moment; "
    "near collapse a linear map says how much of a deviation the two regularization weights let through.",
    claim="Optimized features vary less within their classes than the features they start from, and their distance to "
    "exact collapse is set by the regularization.",
    keywords=("neural collapse", "unconstrained features", "gradient flow", "central path", "NC1", "regularization"),
    api=(
        "gramian.science.near_features.NearFeatures",
        "gramian.science.near_features.central_path",
        "gramian.analysis.geometry.collapse.nc1",
    ),
    use="model = NearFeatures(labels, weight_decay=0.05, proximity=0.1)\nweight, features = model.minimize(near)\n"
    "moved = model.perturbation(features, change_of_near)",
    reach="ResNets on CIFAR-10 need GPUs; the features of a small network on digits stand in",
    differs=(
        "The general first-order map is solved by conjugate gradients; its closed form, for deviations within the "
        "classes of collapsed features, is checked against it.",
    ),
)


def _problem(generator: torch.Generator, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Four classes of twenty in ten dimensions, unit noise around random means; (batch, 10, 80) and labels."""
    labels = torch.arange(4).repeat_interleave(20)
    kind = {"generator": generator, "dtype": torch.float64}
    means = 2 * torch.randn(batch, 10, 4, **kind)
    return means[..., labels] + torch.randn(batch, 10, 80, **kind), labels


def variability_falls(run: Run, steps: int = 500) -> None:
    """The flow on the central path from twenty starts: three measures, at every step."""
    from matplotlib import pyplot

    near, labels = _problem(run.generator(), batch=20)
    path = near_features.central_path(near_features.NearFeatures(labels, 1e-2), near, 0.5, steps)
    shown = {"tr Σ_W": path.within, "tr Σ_W / tr Σ_B": path.within / path.between, "tr(Σ_W Σ_B⁺)/K": path.nc1}
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.2))
    for panel, (name, values) in zip(panels, shown.items()):
        rise = float((values.diff(dim=-1) / values[..., :-1]).max())
        run.check(f"{name} falls at each of {steps} steps from 20 starts (largest relative change)", rise, below=0.0,
                  paper="proved, with minimal assumptions")  # fmt: skip
        panel.loglog(range(1, steps + 2), values.T, alpha=0.5, color="C0")
        panel.set(xlabel="step + 1", title=name)
    run.plot("central-path", figure, "Twenty starts: features drawn by the best classifier, with nothing holding them.")
    last = float((path.nc1[:, -1] / path.nc1[:, 0]).max())
    run.check("tr(Σ_W Σ_B⁺) at the end over that at the start, largest", last, below=0.4)
    final = statistics.class_statistics(path.features[3].T, labels)
    gap = float(collapse.nc1(final) / path.nc1[3, -1])
    run.check("… at the end, against the statistics of the features (relative error)", abs(gap - 1), below=1e-8)


def flow_is_the_gradient(run: Run) -> None:
    """The flow's formula against automatic differentiation of loss and decay at the best classifier."""
    near, labels = _problem(run.generator(1))
    errors = []
    for decay in (1e-3, 3e-2, 1.0):
        model = near_features.NearFeatures(labels, decay)
        h = near[0].clone().requires_grad_()
        y = F.one_hot(labels).double().T
        best = y @ h.T @ torch.linalg.inv(h @ h.T + 20 * decay * torch.eye(10).double())
        value = (best @ h - y).square().sum() / 160 + decay / 8 * best.square().sum()
        (gradient,) = torch.autograd.grad(value, h)
        flow = model.flow(near[0])
        errors.append(float((flow + 80 * gradient).abs().max() / flow.abs().max()))
    run.check("flow against the gradient by automatic differentiation (relative error)", max(errors), below=1e-8)


def minimum_is_found(run: Run) -> None:
    """Alternating solutions against L-BFGS on both variables, and without given features: exact collapse."""
    near, labels = _problem(run.generator(2))
    decay, proximity = 0.05, 0.1
    weight, features = near_features.NearFeatures(labels, decay, proximity).minimize(near[0])
    rival = unconstrained_features.UnconstrainedFeatures((20,) * 4, 10, (decay / 4,), proximity / 80, near=near[0])
    found = rival.minimize(run.generator(3))
    gap = abs(float(rival.objective([weight], features, torch.zeros(4).double())) - found.value)
    run.check("alternating solutions against L-BFGS: objective", gap, below=1e-9)
    run.check("… and features (largest difference)", float((found.features - features).abs().max()), below=1e-4)
    free = unconstrained_features.UnconstrainedFeatures((20,) * 4, 10, (decay / 4,), proximity / 80)
    stats = statistics.class_statistics(free.minimize(run.generator(4)).features.T, labels)
    run.check("near zero instead of given features, a ridge: NC1", float(collapse.nc1(stats)), below=1e-8,
              paper="the unconstrained features model collapses exactly")  # fmt: skip


def perturbations_are_filtered(run: Run) -> None:
    """First-order changes of the minimum: their error is of second order, and near collapse they are a filter."""
    near, labels = _problem(run.generator(5))
    change = torch.randn(10, 80, generator=run.generator(6), dtype=torch.float64)
    model = near_features.NearFeatures(labels, 0.1, 0.5)
    features = model.minimize(near[0])[1]
    first = model.perturbation(features, change)
    gaps = [float((model.minimize(near[0] + e * change)[1] - features - e * first).norm()) for e in (2e-2, 1e-2, 5e-3)]
    for big, small, name in ((*gaps[:2], "0.02"), (*gaps[1:], "0.01")):
        run.check(f"error of the first-order prediction at ε = {name} over that at half of it", big / small,
                  between=(3.5, 4.5))  # fmt: skip
    size = float((model.minimize(near[0] + 5e-3 * change)[1] - features).norm())
    run.check("… error at ε = 0.005 over the change itself", gaps[-1] / size, below=0.01)

    axes = torch.linalg.qr(torch.randn(10, 4, generator=run.generator(7), dtype=torch.float64)).Q
    errors, rows = [], []
    within = change - (change @ model.targets.T / 20) @ model.targets
    for decay in (0.02, 0.1):
        for proximity in (0.05, 0.2, 1.0):
            model = near_features.NearFeatures(labels, decay, proximity)
            weight, collapsed = model.minimize(2 * axes[:, labels])
            _, values, rows_of_weight = torch.linalg.svd(weight, full_matrices=False)
            inside = rows_of_weight.T @ rows_of_weight @ within
            kept = proximity / (proximity + values.square())
            theory = within - inside + rows_of_weight.T @ (kept[:, None] * (rows_of_weight @ within))
            found = model.perturbation(collapsed, within)
            errors.append(float((found - theory).norm() / theory.norm()))
            share = float((rows_of_weight @ found).norm() / (rows_of_weight @ within).norm())
            rows.append({"λ_W": decay, "μ": proximity, "kept in the classifier's span, theory": float(kept.mean()),
                         "kept, found": share})  # fmt: skip
    run.table("filter", rows, "Share of a deviation within the classes that the minimum keeps, near collapse.")
    run.check("near collapse: perturbation against μ/(μ + σ²) (relative error)", max(errors), below=1e-6,
              paper="closeness to collapse is set by the regularization")  # fmt: skip


def digits_move_towards_collapse(run: Run, steps: int = 200, size: int = 15) -> None:
    """Features of a trained network's layers, as the given ones."""
    import numpy as np
    from matplotlib import pyplot

    digits = transfer.load_digits()
    model = transfer.mlp(run.seed, (64, 32, 32, 32, 10))
    optim.fit(
        model, (digits.train, digits.train_labels), lambda module, a, b: F.cross_entropy(module(a), b), steps=steps,
        lr=2e-3, batch_size=64, generator=run.generator(8), show_progress=False,
    )  # fmt: skip
    rows_of = torch.cat([(digits.train_labels == k).nonzero()[:size, 0] for k in range(10)])
    x, labels = digits.train[rows_of], digits.train_labels[rows_of]
    decays = (1e-2,) if run.quick else (1e-2, 1e-3)
    proximities = np.geomspace(1e-2, 1.0, 2 if run.quick else 5)
    figure, panel = pyplot.subplots(figsize=(5.8, 3.8))
    rows, ratios, steps_up = [], [], []
    for depth, name in ((2, "first"), (4, "second"), (6, "third")):
        with torch.no_grad():
            features = model[: depth + 1](x).double()
        features = features - features.mean(0)
        features = features / features.square().sum(1).mean().sqrt()  # one scale for all layers
        given = float(collapse.nc1(statistics.class_statistics(features, labels), "trace"))
        for decay in decays:
            line = []
            for proximity in proximities:
                solver = near_features.NearFeatures(labels, decay, float(proximity))
                moved = solver.minimize(features.T, steps=200, polish=5, tolerance=0.01)[1]
                line.append(float(collapse.nc1(statistics.class_statistics(moved.T, labels), "trace")))
            ratios += [v / given for v in line]
            steps_up += [a / b for a, b in itertools.pairwise(line)]
            rows += [{"layer": name, "NC1 given": given, "λ_W": decay, "μ": float(p), "NC1 moved": v}
                     for p, v in zip(proximities, line)]  # fmt: skip
            colour = f"C{depth // 2}"
            panel.loglog(proximities, line, "o-" if decay == 1e-2 else "s:", color=colour)
        panel.axhline(given, linestyle="--", color=colour, label=f"{name} layer, as given")
    panel.set(xlabel="μ: how dear it is to move", ylabel="tr Σ_W / tr Σ_B")
    panel.legend()
    run.plot("digits", figure, "Solid: λ_W = 0.01, dotted: 0.001. The freer the features, the closer.")
    run.table("digits", rows, f"{size} digits of each class; features of three layers of one network.")
    run.check("digits: NC1 of the moved features over that of the given ones, largest", max(ratios), below=0.99,
              paper="reduction of the within-class variability, proved")  # fmt: skip
    run.check("… and least", min(ratios), below=0.3)
    run.check("NC1 at a smaller μ over that at the next larger, largest", max(steps_up), below=1.0)
    given = [r["NC1 given"] for r in rows[:: len(decays) * len(proximities)]]
    run.check("… of the given features, third layer over first", given[2] / given[0], below=0.85,
              paper="depthwise progress of collapse")  # fmt: skip


def experiment(run: Run, *, steps: int = 3000) -> None:
    """The central path, the minimum against another method, perturbations, and features of a network on digits.

    Args:
        steps: of Euler's method along the central path (full only).
    """
    variability_falls(run) if run.quick else variability_falls(run, steps)
    flow_is_the_gradient(run)
    minimum_is_found(run)
    perturbations_are_filtered(run)
    digits_move_towards_collapse(run) if run.quick else digits_move_towards_collapse(run, 400, 30)
    run.text(
        "filter",
        "Only deviations inside the span of the classifier are reduced, by μ/(μ + σ²) for a singular value σ of it; "
        "what lies across it stays. That is why features near intermediate ones approach collapse and do not reach it.",
    )
