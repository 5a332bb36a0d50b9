"""AlignGuard-LoRA: low-rank fine-tuning that stays out of the directions that alignment hangs on (2025)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib import pyplot
from torch import Tensor, nn

from gramian import optim
from gramian.analysis.fisher import accumulator
from gramian.lab import Card, Run
from gramian.objectives import alignguard
from gramian.surgery.adapters import apply, transfer

CARD = Card(
    title="AlignGuard-LoRA: Alignment-Preserving Fine-Tuning via Fisher-Guided Decomposition and Riemannian-Geodesic "
    "Collision Regularization",
    row=67,
    arxiv="2508.02079",
    year=2025,
    kind="method",
    idea="The update of each layer is split by the leading eigenvectors of the Fisher matrix on what is to be kept: "
    "the part in them is held down by the Fisher matrix, the rest lightly by another metric, and a collision term "
    "keeps the two from working on the same weights.",
    claim="Alignment drifts up to half as much as with plain LoRA, at no loss on the new task.",
    keywords=("LoRA", "safety", "alignment drift", "forgetting", "Fisher matrix", "continual learning", "fine-tuning"),
    api=(
        "gramian.objectives.alignguard.AlignGuardPenalty",
        "gramian.objectives.alignguard.split",
        "gramian.data.driftcheck.built_in_prompts",
        "gramian.data.driftcheck.read_prompts",
    ),
    use="guard = AlignGuardPenalty(output_factors, weights, m=8, alignment=50.0)\n"
    "deltas = lambda model: {n: a.delta() for n, a in adapters(model).items()}\n"
    "fit(model, data, guard.added_to(loss, deltas), steps=300)",
    reach="an aligned chat model and its refusals are out of reach: reading upright digits stands in for alignment, "
    "and what turned digits wipe out of it for drift",
    differs=(
        "Which Fisher matrix of a layer is meant is left open; here it is the factor of its outputs, with expectations "
        "over the model's own classes where they are few.",
        "The collision term weighs weights as they act, W + ΔW; a public reimplementation weighs the update alone.",
        "The paper's scaling law of forgetting is not fitted here.",
    ),
)

RANK, DIRECTIONS = 8, 8
STRENGTHS = {"alignment": 50.0, "task": 1e-3, "collision": 1e-3}


def decomposition_is_exact(run: Run, out: int = 20, width: int = 12, m: int = 5) -> None:
    """The two parts of an update, both collision measures at their extremes, and the penalty against dense algebra."""
    generator = run.generator()

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root, weight, delta = draw(out, out), draw(out, width), draw(out, width)
    fisher = root @ root.T
    _, basis = alignguard.top_directions(fisher, m)
    critical, rest = alignguard.split(delta, basis)
    values, vectors = torch.linalg.eigh(fisher)
    projector = vectors[:, -m:] @ vectors[:, -m:].T
    run.check("protected part against the eigenprojector (largest gap)", (critical - projector @ delta).abs().max(),
              below=1e-10)  # fmt: skip
    run.check("both parts together against the update (largest gap)", (critical + rest - delta).abs().max(), below=1e-6)
    run.check("what of the rest lies in the protected directions (largest)", (basis.T @ rest).abs().max(), below=1e-10)

    eta = alignguard.importance(weight + delta)
    other = rest - critical * (eta * critical * rest).sum() / (eta * critical.square()).sum()
    cosines = [alignguard.geodesic_overlap(critical, b, eta) for b in (-2.5 * critical, other, rest)]
    run.check("geodesic overlap of parallel updates", abs(float(cosines[0]) - 1), below=1e-10)
    run.check("of η-orthogonal ones", cosines[1], below=1e-10)
    run.check("of the two parts of an update", cosines[2], between=(1e-12, 1.0))

    settings = {"alignment": 0.7, "task": 0.3, "collision": 0.2, "alpha": 0.4, "beta": 3.0, "tau": 0.1}
    guard = alignguard.AlignGuardPenalty({"layer": fisher}, {"layer": weight}, m=m, **settings)
    half = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    eta = 1 + 3.0 / (1 + torch.exp(0.1 - (weight + delta).abs()))
    a, t = projector @ delta, delta - projector @ delta
    dense = 0.7 * (half @ a).square().sum() + 0.3 * t.square().sum()
    dense += 0.2 * 0.4 * (eta * (a * t).abs()).sum() / a.numel()
    dense += 0.2 * 0.6 * (eta * a * t).sum() ** 2 / ((eta * a * a).sum() * (eta * t * t).sum())
    moving = delta.clone().requires_grad_()
    penalty = guard({"layer": moving})
    run.check(
        "the penalty against dense algebra (relative gap)", abs(float((penalty.detach() - dense) / dense)), below=1e-9
    )
    (gradient,) = torch.autograd.grad(penalty, moving)
    step, worst = 1e-6, 0.0
    for _ in range(10):
        way = draw(out, width)
        slope = (guard({"layer": delta + step * way}) - guard({"layer": delta - step * way})) / (2 * step)
        worst = max(worst, float((slope - (gradient * way).sum()).abs() / slope.abs().clamp_min(1e-9)))
    run.check("its gradient against finite differences (largest relative gap of 10)", worst, below=1e-5)


def deltas_of(model: nn.Module) -> Mapping[str, Tensor]:
    """The update of every adapted layer."""
    return {name: adapter.delta() for name, adapter in apply.adapters(model).items()}


def drift_on_digits(run: Run, seeds: int = 1, steps: int = 300) -> None:
    """LoRA on turned digits; what is to be kept is reading upright ones. Plain, and with each part of the penalty."""
    upright = transfer.load_digits()
    turned, rows = upright.turned(), []
    arms: dict[str, dict[str, float] | None] = {"LoRA": None, "AlignGuard": STRENGTHS}
    if seeds > 1:
        arms["Fisher term only"] = {**STRENGTHS, "task": 0.0, "collision": 0.0}
        arms["no Fisher term"] = {**STRENGTHS, "alignment": 0.0}
    for seed in run.progress(range(run.seed, run.seed + seeds), "adapting to turned digits"):
        model = transfer.mlp(seed)
        transfer.train(model, upright.train, upright.train_labels, steps=300, lr=2e-3, seed=seed)
        model.eval()
        before = transfer.accuracy(model, upright.test, upright.test_labels)
        weights = {n: layer.weight for n, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        factors = accumulator.FisherAccumulator(model, kind="kfac", source="true").update(upright.train).value()
        fisher = {name: outputs for name, (_, outputs) in factors.items()}
        for arm, strengths in arms.items():
            adapted, loss = copy.deepcopy(model), _cross_entropy
            apply.attach_lora(adapted, "*", RANK, generator=torch.Generator().manual_seed(seed))
            if strengths is not None:
                guard = alignguard.AlignGuardPenalty(fisher, weights, m=DIRECTIONS, **strengths)
                loss = guard.added_to(loss, deltas_of)
            optim.fit(adapted, [turned.train, turned.train_labels], loss, steps=steps, lr=2e-3, batch_size=64,
                      generator=torch.Generator().manual_seed(seed), show_progress=False)  # fmt: skip
            old = transfer.accuracy(adapted, upright.test, upright.test_labels)
            new = transfer.accuracy(adapted, turned.test, turned.test_labels)
            rows.append({"seed": seed, "method": arm, "old": old, "new": new, "drop": before - old})
            run.log(**rows[-1])
    keys = [(a, k) for a in arms for k in ("old", "new", "drop")]
    mean = {(a, k): float(np.mean([r[k] for r in rows if r["method"] == a])) for a, k in keys}
    run.table("digits", rows, f"Test accuracy on upright (old) and turned (new) digits; rank {RANK}, {steps} steps.")
    share = mean["AlignGuard", "drop"] / mean["LoRA", "drop"]
    run.check("drop of the old accuracy, AlignGuard over LoRA", share, below=0.5,
              paper="drift up to 50 % smaller; refusals of a language model are not measured here")  # fmt: skip
    run.check("drop of the old accuracy with plain LoRA", mean["LoRA", "drop"], above=0.05)
    cost = mean["LoRA", "new"] - mean["AlignGuard", "new"]
    run.check("accuracy on the new task that AlignGuard costs", cost, below=0.03)
    _picture(run, rows, list(arms))
    run.text(
        "Digits",
        f"Plain LoRA loses {mean['LoRA', 'drop']:.2f} of the old accuracy, AlignGuard "
        f"{mean['AlignGuard', 'drop']:.2f}, for {cost:.3f} of the new one. "
        + ("" if seeds == 1 else f"The Fisher term alone loses {mean['Fisher term only', 'drop']:.2f} and the others "
           f"without it {mean['no Fisher term', 'drop']:.2f}: the Fisher term does the work here."),
    )  # fmt: skip


def _cross_entropy(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(module(x), y)


def _picture(run: Run, rows: list[dict], arms: list[str]) -> None:
    figure, axes = pyplot.subplots()
    for i, arm in enumerate(arms):
        points = [r for r in rows if r["method"] == arm]
        axes.scatter([r["new"] for r in points], [r["old"] for r in points], s=60, color=f"C{i}", label=arm)
    axes.set(xlabel="accuracy on the new task", ylabel="accuracy on the old task", title="What LoRA forgets")
    axes.legend()
    run.plot("drift", figure, "Networks that read upright digits, adapted to turned ones; one dot a seed.")


def experiment(run: Run, *, seeds: int = 3, steps: int = 300) -> None:
    """The decomposition and the penalty against dense algebra, and drift on digits.

    Args:
        seeds: networks of the full profile, which also takes the penalty apart.
        steps: training steps on the new task.
    """
    decomposition_is_exact(run)
    drift_on_digits(run, 1 if run.quick else seeds, steps)
