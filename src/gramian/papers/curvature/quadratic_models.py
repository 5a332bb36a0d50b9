"""Quadratic models: the catapult of large learning rates, without the network (Zhu et al., 2022)."""

from __future__ import annotations

import warnings
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from gramian.analysis import taylor
from gramian.lab import Card, Run
from gramian.optim import catapult

CARD = Card(
    title="Quadratic models for understanding neural network dynamics",
    row=122,
    arxiv="2205.11787",
    year=2022,
    kind="theory",
    idea="Keep the second-order term of a network's Taylor expansion in its parameters: unlike the linear model, the "
    "quadratic one has a tangent kernel that moves, and it trains at learning rates where the linear one diverges.",
    claim="Quadratic models show the catapult of wide networks: between 2 and 4 over the kernel's norm the loss first "
    "rises, the kernel shrinks until the rate is stable, and descent converges.",
    keywords=("catapult", "large learning rate", "neural tangent kernel", "Taylor expansion", "edge of stability"),
    api=(
        "gramian.analysis.taylor.QuadraticModel",
        "gramian.analysis.taylor.LinearizedModel",
        "gramian.analysis.taylor.ntk",
        "gramian.optim.catapult.run",
        "gramian.optim.catapult.two_layer_recursion",
    ),
    use="model = QuadraticModel(network)  # trains in place of the network\n"
    "trace = catapult.run(model, x, y, lr=1.5 * critical_rates(model, x)[0], steps=200)\ntrace.phase",
    reach="test errors on larger image sets; two classes of the digits stand in",
)


class TwoLayerLinear(nn.Module):
    """f(x) = x u·v/√m, quadratic in its parameters."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(width, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(width, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.dot(self.u, self.v) / len(self.u) ** 0.5


class TanhNet(nn.Module):
    """f(x) = v·tanh(W x/√d)/√m with standard normal weights."""

    def __init__(self, features: int, width: int, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(width, features, generator=generator).to(dtype))
        self.outer = nn.Parameter(torch.randn(width, generator=generator).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ self.inner.mT / x.shape[-1] ** 0.5)
        return hidden @ self.outer / len(self.outer) ** 0.5


def _shift(model: taylor.LinearizedModel, displacement: Tensor) -> None:
    with torch.no_grad():
        model.displacement.copy_(displacement)


def model_is_the_taylor_polynomial(run: Run) -> None:
    """Value and gradient at w₀, the order of the remainder, and exactness where the network is quadratic."""
    net = TanhNet(5, 20, run.generator(), torch.float64)
    x = torch.randn(8, 5, generator=run.generator(1), dtype=torch.float64)
    model = taylor.QuadraticModel(net)
    run.check("value at w₀ equals the network's (largest gap)", (model(x) - net(x)).abs().max(), below=1e-12)
    ours = torch.autograd.grad(model(x).square().sum(), model.displacement)[0]
    theirs = torch.autograd.grad(net(x).square().sum(), tuple(net.parameters()))
    gap = (ours - model.layout.flatten(dict(zip(model.layout.names, theirs)))).abs().max()
    run.check("gradient at w₀ equals the network's (largest gap)", gap, below=1e-12)
    direction = torch.randn(model.layout.size, generator=run.generator(2), dtype=torch.float64)
    direction /= direction.norm()
    rows = []
    for step in (0.4, 0.2, 0.1, 0.05):
        row = {"step": step}
        for name, kind in (("linear", taylor.LinearizedModel), ("quadratic", taylor.QuadraticModel)):
            polynomial = kind(net)
            _shift(polynomial, step * direction)
            row[name] = float((polynomial(x) - polynomial.network()(x)).detach().norm())
        rows.append(row)
    run.table("remainder", rows, "Distance between polynomial and network at w₀ + step · direction.")
    ratio = rows[-2]["quadratic"] / max(rows[-1]["quadratic"], 1e-300)
    run.check("the quadratic model's error falls by 8 when the step halves", ratio, between=(7.5, 8.5))
    two = TwoLayerLinear(50, run.generator(3))
    polynomial = taylor.QuadraticModel(two)
    _shift(polynomial, 3 * torch.randn(100, generator=run.generator(4), dtype=torch.float64))
    one = torch.ones(1, dtype=torch.float64)
    gap = (polynomial(one) - polynomial.network()(one)).abs().max()
    run.check("exact for a two-layer linear net, far from w₀", gap, below=1e-10)


def descent_follows_the_recursion(run: Run, width: int = 1000) -> None:
    """Two scalars, output and kernel, describe gradient descent on a two-layer linear net without error."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    worst = 0.0
    for product in (1.5, 2.5, 3.5):
        net = TwoLayerLinear(width, run.generator(5))
        start, kernel = float(net(one).detach()), catapult.kernel_norm(net, one)
        trace = catapult.run(net, one, zero, product / kernel, 50, kernel_every=1, limit=1e12)
        outputs, kernels = catapult.two_layer_recursion(start, kernel, width, product / kernel, 50)
        loss = torch.tensor(trace.loss, dtype=torch.float64)
        measured = torch.tensor([k for _, k in trace.kernel], dtype=torch.float64)
        worst = max(
            worst,
            float((((2 * loss).sqrt() - outputs.abs()).abs() / (1 + outputs.abs())).max()),
            float((measured - kernels).abs().max()),
        )
    run.check(f"gradient descent, width {width}, and the recursion: worst gap in 50 steps", worst, below=1e-9)


def three_phases(run: Run, width: int = 1000) -> None:
    """Below 2, between 2 and 4, above 4: monotone, catapult, divergent."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    traces: dict[float, catapult.Trace] = {}
    initial = catapult.kernel_norm(TwoLayerLinear(width, run.generator(6)), one)
    for product in (1.0, 1.9, 2.2, 3.0, 3.8, 4.2, 5.0):
        model = taylor.QuadraticModel(TwoLayerLinear(width, run.generator(6)))
        traces[product] = catapult.run(
            model, one, zero, product / initial, 60 if product < 2 else 3000, kernel_every=12, target=9e-21, limit=1e9
        )
    rows = [
        {
            "η λ at the start": product, "phase": trace.phase, "peak loss / first": trace.peak,
            "final loss": trace.loss[-1], "η λ at the end": None if trace.diverged else trace.sharpness,
            "steps": len(trace.loss) - 1,
        }
        for product, trace in traces.items()
    ]  # fmt: skip
    run.table("phases", rows, f"The quadratic model of a two-layer linear net of width {width}, one datum.")
    for product in (1.0, 1.9):
        trace = traces[product]
        run.check(f"η λ = {product}: the loss never exceeds its start (peak)", trace.peak, below=1 + 1e-9)
        share = trace.kernel[-1][1] / initial
        run.check(f"η λ = {product}: the kernel hardly moves (its final share)", share, above=0.98)
    for product in (2.2, 3.0, 3.8):
        trace = traces[product]
        run.check(f"η λ = {product}: the loss rises first (peak as a multiple)", trace.peak, above=5)
        run.check(f"η λ = {product}: and still converges (final loss)", trace.loss[-1], below=1e-20)
        run.check(f"η λ = {product}: at a kernel that is stable", trace.sharpness, below=2, paper="flatter than 2/η")
    for product in (4.2, 5.0):
        run.check(f"η λ = {product}: phase", traces[product].phase, equals="divergent", paper="η_max ≈ 4/λ")
    _plot_phases(run, traces)


def _plot_phases(run: Run, traces: dict[float, catapult.Trace]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4))
    for i, (product, trace) in enumerate(traces.items()):
        shown = [max(v, 1e-21) for v in trace.loss[:120]]
        axes[0].semilogy(shown, color=f"C{i}", lw=1.5, label=f"{product:g}")
        steps, norms = zip(*[(s, trace.lr * k) for s, k in trace.kernel if s <= 120], strict=True)
        axes[1].plot(steps, norms, color=f"C{i}", lw=1.5)
    axes[0].set(xlabel="step", ylabel="loss", ylim=(1e-12, 1e5))
    axes[0].legend(title="η λ at the start", ncols=2, fontsize=8, title_fontsize=8)
    axes[1].axhline(2, ls="--", lw=1, color="C7")
    axes[1].set(xlabel="step", ylabel="η λ", ylim=(0, 5.5))
    run.plot(
        "catapult", figure,
        "Gradient descent on a quadratic model. Between 2 and 4 the loss rises until the kernel (right) has fallen "
        "below the dashed line of stability; above 4 both run away.",
    )  # fmt: skip


def linear_model_diverges(run: Run, width: int = 1000) -> None:
    """The same rate, 2.2 over the kernel: the linearized model has no way to become flatter."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    found = {}
    for name, kind in (("linear", taylor.LinearizedModel), ("quadratic", taylor.QuadraticModel)):
        model = kind(TwoLayerLinear(width, run.generator(6)))
        trace = catapult.run(model, one, zero, 1.1 * catapult.critical_rates(model, one)[0], 300, target=1e-15)
        found[name] = trace.phase
    run.check("η λ = 2.2: the linearized model's phase", found["linear"], equals="divergent")
    run.check("η λ = 2.2: the quadratic model's phase", found["quadratic"], equals="catapult")


def _two_digits(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits 3 and 8 as ±1, `count` to train on, standardized."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = np.flatnonzero((digits.target == 3) | (digits.target == 8))
    chosen = np.random.default_rng(seed).permutation(chosen)
    x = torch.tensor(digits.data[chosen] / 16, dtype=torch.float32)
    x = (x - x[:count].mean()) / x[:count].std()
    y = torch.tensor(np.where(digits.target[chosen] == 3, 1.0, -1.0), dtype=torch.float32)
    return x[:count], y[:count], x[count:], y[count:]


def _train_on_digits(kind: Any, name: str, seed: int, factors: tuple[float, ...], width: int, steps: int) -> list[dict]:
    """One network or its quadratic model at several learning rates, on one thread."""
    torch.set_num_threads(1)
    x, y, x_test, y_test = _two_digits(seed, 48)
    rows = []
    for factor in factors:
        net: nn.Module = TanhNet(64, width, torch.Generator().manual_seed(seed), torch.float32)
        rate = factor / 2 * catapult.critical_rates(net, x)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflow at the divergent rates
            model = net if kind is None else kind(net)
            trace = catapult.run(model, x, y, rate, steps)
        wrong = float("nan")
        if not trace.diverged:
            with torch.no_grad():
                wrong = float((torch.sign(model(x_test)) != y_test).double().mean())
        rows.append({
            "model": name, "seed": seed, "factor": factor, "phase": trace.phase, "peak": trace.peak,
            "final": trace.loss[-1] / trace.loss[0], "sharpness": trace.sharpness, "test error": wrong,
        })  # fmt: skip
    return rows


def networks_and_their_quadratic_models(run: Run, seeds: int = 3, width: int = 128, steps: int = 100) -> None:
    """A tanh network on two digit classes beside its quadratic model, over learning rates; shown, not gated."""
    factors = (1.0, 1.9, 2.5, 3.0, 3.5, 4.5)
    kinds = {"network": None, "quadratic model": taylor.QuadraticModel}
    jobs = [(kind, name, run.seed + s, factors, width, steps) for s in range(seeds) for name, kind in kinds.items()]
    calls = (joblib.delayed(_train_on_digits)(*job) for job in jobs)
    rows = []
    for part in run.progress(joblib.Parallel(n_jobs=2, return_as="generator")(calls), "two digits", total=len(jobs)):
        rows += part
    table = []
    for factor in factors:
        row: dict[str, Any] = {"η λ at the start": factor}
        for name in kinds:
            some = [r for r in rows if r["factor"] == factor and r["model"] == name]
            counts = {p: sum(r["phase"] == p for r in some) for p in ("monotone", "catapult", "divergent")}
            row[f"{name}: phases"] = ", ".join(f"{p} {c}" for p, c in counts.items() if c)
            errors = [r["test error"] for r in some if r["phase"] != "divergent"]
            row[f"{name}: test error"] = float(np.mean(errors)) if errors else None
        table.append(row)
    run.table("two digits", table, f"3 against 8, 48 to train on, tanh network of width {width}, {seeds} seeds.")
    _plot_digits(run, rows, factors, list(kinds))
    run.text(
        "two digits",
        "Networks and quadratic models on digits, beside each other and without a bound: where each turns from "
        "monotone descent to a catapult and to divergence, and what that does to the test error. With 48 data instead "
        "of one, the boundaries 2 and 4 hold for the top eigenvalue only, and a width of 128 is far from "
        "the limit in which the paper proves them.",
    )


def _plot_digits(run: Run, rows: list[dict], factors: tuple[float, ...], names: list[str]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.4))
    for i, name in enumerate(names):
        for panel, key in zip(axes, ("peak", "test error")):
            points = [(r["factor"], r[key]) for r in rows if r["model"] == name and r["phase"] != "divergent"]
            means = [np.mean([v for f, v in points if f == factor]) for factor in factors if factor in dict(points)]
            panel.plot([f + 0.06 * i for f, _ in points], [v for _, v in points], "o", color=f"C{i}", ms=4, alpha=0.5)
            panel.plot([f for f in factors if f in dict(points)], means, color=f"C{i}", label=name)
    axes[0].set(xlabel="η λ at the start", ylabel="peak loss / first", yscale="log")
    axes[1].set(xlabel="η λ at the start", ylabel="test error")
    axes[0].axvline(2, ls="--", lw=1, color="C7")
    axes[0].legend()
    run.plot("digits", figure, "A dot a seed; trainings that diverged have none. Dashed: where a linear one diverges.")


def experiment(run: Run, *, width: int = 1000, seeds: int = 3) -> None:
    """Exactness of the quadratic model, the recursion, the three phases, and the linear model's divergence.

    Args:
        width: of the two-layer linear nets.
        seeds: trainings on two digit classes (full only).
    """
    model_is_the_taylor_polynomial(run)
    descent_follows_the_recursion(run, width)
    three_phases(run, width)
    linear_model_diverges(run, width)
    if not run.quick:
        networks_and_their_quadratic_models(run, seeds)
