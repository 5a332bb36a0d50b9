"""Matrix sensing: what more columns than the rank cost gradient descent, and the one step that pays (2023)."""

from __future__ import annotations

import numpy as np

from gramian.estimators import lowrank_sensing
from gramian.lab import Card, Run
from gramian.linalg.factor import sensing
from gramian.science import matrix_sensing as science

CARD = Card(
    title="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and "
    "Initialization",
    row=80,
    arxiv="2310.01769",
    year=2023,
    kind="theory",
    idea="A low-rank matrix is sought as a product of factors with more columns than its rank. With one factor, XXᵀ, "
    "the surplus columns die out like 1/T; with two of different size, FGᵀ, exponentially, at a rate that the "
    "imbalance of the start sets. One step that makes a factor well conditioned removes the dependence.",
    claim="The squared error falls like 1/T² in the over-parameterized symmetric form, like exp(−c α² T) in the "
    "asymmetric one, and at a rate independent of α after one modified step.",
    keywords=("low-rank recovery", "over-parameterization", "implicit regularization", "convergence rate", "RIP"),
    api=(
        "gramian.science.matrix_sensing.MatrixSensing",
        "gramian.linalg.factor.sensing.descend",
        "gramian.linalg.factor.sensing.rebalance_step",
        "gramian.estimators.lowrank_sensing.LowRankSensing",
    ),
    use="model = LowRankSensing(rank=4).fit(A, y)  # A (measurements, rows, columns), y (measurements,)\nmodel.matrix_",
    differs=(
        "The modified step is F = A S Bᵀ → F' = β A, G' = G B S/β, which keeps the product; we derived this form "
        "from the paper's description.",
    ),
)

RATE = 0.05
VALUES = (1.0, 0.7)


def _problem(run: Run, stream: int = 0, size: int = 20) -> science.MatrixSensing:
    return science.MatrixSensing(science.low_rank(size, size, VALUES, run.rng(stream), symmetric=True))


def symmetric_form_is_slow(run: Run) -> None:
    """K = r converges exponentially, k > r like 1/T²."""
    problem = _problem(run)
    exact = problem.gd("sym", 2, 0.1, RATE, 2000, run.rng(1))
    run.check("symmetric, k = r: squared error at step 2,000", exact.error[-1], below=1e-20, paper="exp(−Ω(T))")
    over = problem.gd("sym", 4, 0.1, RATE, 40_000, run.rng(1), every=1000)
    late = [s for s in over.steps if s >= 5000]
    slope = float(np.polyfit(np.log(late), np.log([over.at(s) for s in late]), 1)[0])
    claim = "symmetric, k = 4 > r = 2: slope of log error in log T, steps 5,000 … 40,000"
    run.check(claim, slope, between=(-2.1, -1.85), paper="Ω(1/T²)")
    run.check("symmetric, k = 4: squared error at step 40,000", over.error[-1], above=1e-8)


def _tail_rate(descent: sensing.Descent, above: float = 1e-17, below: float = 1e-7) -> float:
    """The exponential rate while the squared error lies between two levels."""
    inside = [s for s in descent.steps if above <= descent.at(s) <= below]
    return descent.log_slope(inside[0], inside[-1]) if len(inside) > 1 else float("nan")


def imbalance_sets_the_rate(run: Run, starts: int = 4) -> None:
    """Two factors, the second a third of the first: exponential, with a rate that goes as α²."""
    problem = _problem(run)
    rows = []
    for start in range(starts):
        courses = {
            alpha: problem.gd("asym", 4, alpha, RATE, steps, run.rng(40 + start))
            for alpha, steps in ((0.1, 5000), (0.05, 14_000))
        }
        row = {"start": start}
        for alpha, course in courses.items():
            row[f"rate / α², α = {alpha}"] = _tail_rate(course) / alpha**2
        row["squared error at step 5,000, α = 0.1"] = courses[0.1].error[-1]
        rows.append(row)
    run.table("rates", rows, "Asymmetric factors with k = 4 columns for rank 2; the rate is that of the error's tail.")
    ratio = 4 * np.exp(np.mean([np.log(r["rate / α², α = 0.1"] / r["rate / α², α = 0.05"]) for r in rows]))
    claim = f"asymmetric, k = 4: rate at α = 0.1 over that at 0.05, geometric mean of {starts} starts"
    run.check(claim, float(ratio), between=(3.3, 4.9), paper="exp(−Ω(α² T)): 4")
    worst = max(r["squared error at step 5,000, α = 0.1"] for r in rows)
    run.check("asymmetric, k = 4, α = 0.1: worst squared error at step 5,000", worst, below=1e-12)


def one_step_frees_the_rate(run: Run) -> None:
    """Rebalanced once at step 600: the same fast rate for every α."""
    from matplotlib import pyplot

    problem = _problem(run)
    figure, panels = pyplot.subplots(1, 2, figsize=(8.6, 3.4), sharey=True)
    worst, changed, rows = 0.0, 0.0, []
    for i, alpha in enumerate((0.25, 0.125, 0.03)):
        fixed = problem.gd("asym", 4, alpha, RATE, 1500, run.rng(3), rebalance_at=600, every=10)
        plain = problem.gd("asym", 4, alpha, RATE, 1500, run.rng(3), every=10)
        worst = max(worst, fixed.error[-1])
        early = problem.gd("asym", 4, alpha, RATE, 600, run.rng(3))
        left, right = sensing.rebalance_step(early.left, early.right)
        changed = max(changed, float(np.abs(left @ right.T - early.matrix).max()))
        rows.append({"α": alpha, "plain": plain.error[-1], "rebalanced": fixed.error[-1]})
        panels[1].semilogy(plain.steps, plain.error, "--", color=f"C{i}", lw=1)
        panels[1].semilogy(fixed.steps, fixed.error, color=f"C{i}", label=f"α = {alpha}")
    run.check("rebalanced at step 600, k = 4, α = 0.25, 0.125, 0.03: worst squared error at step 1,500", worst,
              below=1e-26, paper="a rate independent of α")  # fmt: skip
    run.check("the rebalancing leaves the product as it is (largest change)", changed, below=1e-12)
    lag = rows[-1]["plain"]
    run.check("without it, α = 0.03: squared error at step 1,500", lag, above=1e-8)
    run.table("rebalancing", rows, "Squared error at step 1,500.")
    for name, kind, k in (("XXᵀ, k = r", "sym", 2), ("XXᵀ, k = 4", "sym", 4), ("FGᵀ, k = 4, α = 0.1", "asym", 4)):
        course = problem.gd(kind, k, 0.1, RATE, 4000, run.rng(1), every=10)
        panels[0].semilogy(course.steps, course.error, label=name)
    panels[0].set(xlabel="step", ylabel="squared error", ylim=(1e-30, 1e2))
    panels[1].set(xlabel="step", title="dashed: without the step")
    for panel in panels:
        panel.legend(fontsize=8)
    run.plot("courses", figure, "Left: surplus columns slow the symmetric form down. Right: one step, at 600, repairs.")


def measurements_keep_the_order(run: Run, seeds: int = 3, size: int = 20) -> None:
    """Gaussian measurements, five per unit of n r, in place of the known matrix."""
    rows = []
    for seed in run.progress(range(seeds), "Gaussian measurements"):
        truth = _problem(run, 10 + seed, size).truth
        problem = science.MatrixSensing.gaussian(truth, 5 * size * len(VALUES), run.rng(20 + seed))
        row = {"seed": seed}
        for name, kind, k, fix in (
            ("k = r", "sym", 2, None), ("symmetric", "sym", 4, None), ("asymmetric", "asym", 4, None),
            ("rebalanced", "asym", 4, 1000),
        ):  # fmt: skip
            row[name] = problem.gd(kind, k, 0.1, RATE, 6000, run.rng(30 + seed), rebalance_at=fix, every=1000).error[-1]
        rows.append(row)
    run.table("gaussian", rows, f"Squared error after 6,000 steps, {5 * size * len(VALUES)} Gaussian measurements.")
    run.check("200 Gaussian measurements, k = r: worst squared error", max(r["k = r"] for r in rows), below=1e-20)
    run.check("…, k = 4, rebalanced: worst squared error", max(r["rebalanced"] for r in rows), below=1e-8)
    first = sum(r["rebalanced"] < min(r["asymmetric"], r["symmetric"]) for r in rows)
    run.check("…: seeds in which the rebalanced descent is ahead of both others", first, equals=seeds)


def estimator_recovers(run: Run) -> None:
    """The estimator on rectangular data with a surplus rank, scored on measurements that it has not seen."""
    truth = science.low_rank(15, 10, VALUES, run.rng(4))
    A = run.rng(5).standard_normal((350, *truth.shape))
    y = np.einsum("mij,ij->m", A, truth)
    model = lowrank_sensing.LowRankSensing(rank=4, max_iter=4000).fit(A[:250], y[:250])
    run.check("250 measurements of a 15 × 10 matrix, rank 4 allowed: R² on 100 fresh ones",
              model.score(A[250:], y[250:]), above=1 - 1e-6)  # fmt: skip


def experiment(run: Run, *, seeds: int = 3) -> None:
    """Rates of the symmetric and asymmetric forms, the rebalancing, the estimator, Gaussian measurements.

    Args:
        seeds: sets of Gaussian measurements (full only).
    """
    symmetric_form_is_slow(run)
    imbalance_sets_the_rate(run)
    one_step_frees_the_rate(run)
    estimator_recovers(run)
    run.text(
        "rates",
        "Surplus columns of the symmetric form vanish only like 1/T. Two factors of different size vanish "
        "exponentially, the faster the larger the start; and one reparametrization of the same product, in the "
        "middle of the descent, makes the size of the start irrelevant.",
    )
    if not run.quick:
        measurements_keep_the_order(run, seeds)
