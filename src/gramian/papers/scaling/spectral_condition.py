"""The spectral condition: weights and updates of norm √(fan-out/fan-in) (Yang, Simon and Bernstein, 2023)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Card, Run
from gramian.optim.parametrization import coordinates, rules, spectral_sgd

CARD = Card(
    title="A Spectral Condition for Feature Learning",
    row=93,
    arxiv="2310.17813",
    year=2023,
    kind="method",
    idea="Features of a wide network move neither too little nor too much if every weight matrix and every update of "
    "it has a spectral norm of the order of √(fan-out/fan-in). That fixes each layer's start and learning rate.",
    claim="Scaled so, updates and features change equally at every width, and the best learning rate stays where it "
    "is; the rule is maximal update parametrization, derived in a page.",
    keywords=("muP", "maximal update", "width", "learning rate transfer", "hyperparameter transfer", "initialization"),
    api=(
        "gramian.optim.parametrization.rules.Parametrization",
        "gramian.optim.parametrization.rules.spectral",
        "gramian.optim.parametrization.spectral_sgd.SpectralSGD",
        "gramian.optim.parametrization.coordinates.coordinate_check",
    ),
    use='model, groups = spectral(model, lr=0.5, optimizer="adam")\noptimizer = torch.optim.Adam(groups)',
    reach="networks of many thousand units; digits and widths up to 2,048 stand in",
    data=(),
)

WIDTHS = (64, 256, 1024, 2048)
SHAPES = ((10, 1024), (64, 1024), (512, 1024), (1024, 1024), (1024, 512), (2048, 64))


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean()) / x.std())[order], torch.tensor(digits.target)[order]


def _network(width: int) -> nn.Sequential:
    sizes = (64, width, width, 10)
    # the parametrization draws the start; without one of torch's own the global random state stays as it is
    linear = [nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes)]
    for layer in linear:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])


def _loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x), y)


def _norm(matrix: Tensor) -> float:
    """The oracle: the root of the largest eigenvalue of the smaller Gram matrix, in double precision."""
    wide = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().mT
    return float(torch.linalg.eigvalsh(wide @ wide.mT)[-1].sqrt())


class Make:
    """(width, seed) → a network under a parametrization, and its optimizer."""

    def __init__(self, kind: str, optimizer: str, lr: float, parametrization: Callable[..., Any]) -> None:
        self.kind, self.optimizer, self.lr, self.parametrization = kind, optimizer, lr, parametrization

    def __call__(self, width: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        rule = self.parametrization(self.kind, None, self.optimizer)
        model, groups = rule.apply(_network(width), lr=self.lr, generator=torch.Generator().manual_seed(seed))
        return model, torch.optim.SGD(groups) if self.optimizer == "sgd" else torch.optim.Adam(groups)


def start_has_the_norm(run: Run) -> None:
    """Spectral norms of the drawn weights, over shapes."""
    rows = []
    for index, (fan_out, fan_in) in enumerate(SHAPES):
        layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        rules.Parametrization("spectral").apply(layer, lr=1.0, generator=run.generator(index))
        norm = _norm(layer.weight.detach())
        std = min(1.0, math.sqrt(fan_out / fan_in)) / math.sqrt(fan_in)
        expected = std * (math.sqrt(fan_in) + math.sqrt(fan_out))
        target = math.sqrt(fan_out / fan_in)
        rows.append({"fan-out": fan_out, "fan-in": fan_in, "spectral norm": norm, "over √(out/in)": norm / target,
                     "over σ(√in + √out)": norm / expected})  # fmt: skip
    run.table("start", rows, "The start that the spectral rule draws, by shape.")
    square = next(r for r in rows if r["fan-out"] == r["fan-in"] == 1024)
    worst = abs(square["over σ(√in + √out)"] - 1)
    run.check("spectral norm of a 1024 × 1024 start against σ(√in + √out) (relative error)", worst, below=0.05)
    ratios = [r["over √(out/in)"] for r in rows]
    run.check(f"norm over √(out/in), {len(rows)} shapes: smallest", min(ratios), above=0.9, paper="Θ(1)")
    run.check(f"norm over √(out/in), {len(rows)} shapes: largest", max(ratios), below=2.2, paper="Θ(1)")


def update_has_the_norm(run: Run, lr: float = 0.1) -> None:
    """The normalized update of a real gradient, against its singular values."""
    x, y = (t[:128] for t in _digits())
    model, _ = Make("spectral", "sgd", lr, rules.Parametrization)(256, run.seed)
    before = [p.detach().clone() for p in model.parameters()]
    _loss(model, x, y).backward()
    spectral_sgd.SpectralSGD(model.parameters(), lr, power_iters=20, seed=run.seed).step()
    errors = []
    for old, new in zip(before, model.parameters()):
        moved = (new.detach() - old).reshape(len(old), -1)
        target = lr * math.sqrt(moved.shape[0] / moved.shape[1])
        errors.append(abs(_norm(moved) / target - 1))
    claim = "SpectralSGD, 20 rounds: spectral norm of each update against η√(out/in) (worst relative error)"
    run.check(claim, max(errors), below=0.01)


def updates_do_not_depend_on_width(run: Run) -> None:
    """Three steps at widths 64 … 2048: how ‖ΔW‖₂ and the features' change grow."""
    x, y = (t[:64] for t in _digits())
    found = {
        name: coordinates.coordinate_check(Make(kind, kind_optimizer, lr, rules.Parametrization), WIDTHS, (x, y), _loss,
                                           steps=3, seeds=(run.seed,))
        for name, kind, kind_optimizer, lr in (
            ("spectral, SGD", "spectral", "sgd", 0.1), ("spectral, Adam", "spectral", "adam", 0.1),
            ("standard, SGD", "standard", "sgd", 0.05), ("standard, Adam", "standard", "adam", 1e-3),
        )
    }  # fmt: skip
    rows = [{"rule": name, **row} for name, check in found.items() for row in check.rows()]
    run.table("slopes", rows, "Powers of the width by which each grows, per layer: spectral norms over √(out/in), and "
              "root mean squares of the layer's outputs.")  # fmt: skip
    for name, check in found.items():
        slopes = [abs(v) for v in check.slopes("update").values()]
        claim = f"{name}: power of the width in ‖ΔW‖₂/√(out/in), largest of three layers"
        if name.startswith("spectral"):
            run.check(claim, max(slopes), below=0.1, paper="0")
            hidden = abs(check.slopes("change")["2.weight"])
            run.check(f"{name}: power of the width in the hidden features' change", hidden, below=0.1, paper="0")
        else:
            run.check(claim, max(slopes), above=0.3, paper="standard rates break the condition")
    _plot_updates(run, found)


def _plot_updates(run: Run, found: dict[str, coordinates.Coordinates]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 4, figsize=(11, 3.2), sharey=True)
    for panel, (name, check) in zip(panels, found.items()):
        for label, values in zip(("input", "hidden", "output"), check.update.values()):
            panel.loglog(check.widths, values, "o-", label=label)
        panel.set(title=name, xlabel="width")
        panel.set_xticks(check.widths, check.widths, fontsize=8)
        panel.minorticks_off()
    panels[0].set_ylabel("‖ΔW‖₂ / √(fan-out/fan-in)")
    panels[0].legend()
    run.plot(
        "updates", figure,
        "What three steps change, in the norm that counts. Flat lines: every width learns features alike. Under the "
        "standard rule the same rate is too large for wide hidden and output layers.",
    )  # fmt: skip


def rule_is_maximal_update(run: Run) -> None:
    """Start and rates of both rules over widths: the same powers."""
    spread = 0.0
    for optimizer, power in (("sgd", 2), ("adam", 1)):
        for aspect in ("lr", "std"):
            ratios: dict[str, list[float]] = {}
            for width in (64, 128, 512, 4096):
                with torch.device("meta"):
                    model, narrow = _network(width), _network(64)
                ours = rules.Parametrization("spectral", None, optimizer).rules(model)
                theirs = rules.Parametrization("mup", narrow, optimizer).rules(model)
                for a, b in zip(ours, theirs):
                    # a multiplier m is a rate of m² (SGD) or m (Adam) and a start of m on the weight in use
                    times = b.multiplier ** (power if aspect == "lr" else 1)
                    if getattr(b, aspect):
                        ratio = getattr(a, aspect) / (getattr(b, aspect) * times)
                        ratios.setdefault(a.weight.name, []).append(ratio)
            spread = max(spread, *(max(r) / min(r) - 1 for r in ratios.values()))
    claim = "rates and starts of the spectral rule over maximal update's: largest change of the ratio over widths"
    run.check(claim, spread, below=1e-9, paper="equivalent")


def _trained(make: Make, width: int, seed: int, steps: int) -> float:
    """The training loss after some steps; infinite if it ran away."""
    torch.set_num_threads(1)
    x, y = (t[:1400] for t in _digits())
    model, optimizer = make(width, seed)
    try:
        optim.fit(
            model, (x, y), _loss, steps=steps, batch_size=64, optimizer=lambda _: optimizer,
            generator=torch.Generator().manual_seed(seed), show_progress=False,
        )  # fmt: skip
    except optim.Diverged:
        return math.inf
    with torch.no_grad():
        value = float(_loss(model, x, y))
    return value if math.isfinite(value) else math.inf


def best_rate_stays(run: Run, widths: Sequence[int] = (32, 128, 1024), seeds: int = 2, steps: int = 60) -> None:
    """Loss by learning rate and width, Adam, under both rules."""
    grids = {"spectral": [2.0**k for k in range(-4, 2)], "standard": [2.0**k for k in range(-9, -3)]}
    jobs = [
        (kind, lr, width, run.seed + s)
        for width in reversed(widths) for kind, grid in grids.items() for lr in grid for s in range(seeds)
    ]  # fmt: skip
    calls = (joblib.delayed(_trained)(Make(k, "adam", lr, rules.Parametrization), w, s, steps) for k, lr, w, s in jobs)
    results = joblib.Parallel(n_jobs=2, return_as="generator")(calls)
    losses: dict[tuple[str, int, float], list[float]] = {}
    for (kind, lr, width, _), value in zip(jobs, run.progress(results, "learning rates", total=len(jobs))):
        losses.setdefault((kind, width, lr), []).append(value)
    mean = {key: math.exp(sum(math.log(v) for v in values) / len(values)) for key, values in losses.items()}
    curves = {(k, w): [mean[k, w, lr] for lr in grid] for k, grid in grids.items() for w in widths}
    best = {(k, w): grids[k][min(range(len(c)), key=c.__getitem__)] for (k, w), c in curves.items()}
    rows, shift, regret = [], {}, {}
    for kind, grid in grids.items():
        rates = [best[kind, w] for w in widths]
        shift[kind] = max(rates) / min(rates)
        wide = curves[kind, widths[-1]]
        regret[kind] = wide[grid.index(rates[0])] / min(wide)
        rows += [{"rule": kind, "width": w, "best lr": best[kind, w], "loss": min(curves[kind, w]),
                  "loss at the narrowest's best": curves[kind, w][grid.index(rates[0])]} for w in widths]  # fmt: skip
    run.table(
        "rates", rows, f"Training loss on the digits after {steps} steps of Adam, geometric mean of {seeds} seeds."
    )
    span = f"widths {widths[0]}–{widths[-1]}"
    run.check(f"spectral: best rate varies over {span} by", shift["spectral"], below=2, paper="constant")
    run.check(f"standard: best rate varies over {span} by", shift["standard"], above=4, paper="falls with the width")
    run.check(
        "spectral: loss of the widest at the narrowest's best rate, over its own best", regret["spectral"], below=1.6
    )
    run.check("standard: the same", regret["standard"], above=2)
    _plot_rates(run, grids, curves, widths)


def _plot_rates(run: Run, grids: dict[str, list[float]], curves: dict[Any, list[float]], widths: Sequence[int]) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for panel, (kind, grid) in zip(panels, grids.items()):
        for i, width in enumerate(widths):
            curve = curves[kind, width]
            panel.loglog(grid, curve, "o-", color=f"C{i}", label=f"width {width}")
            at = min(range(len(curve)), key=curve.__getitem__)
            panel.loglog([grid[at]], [curve[at]], "*", ms=14, color=f"C{i}")
        panel.set(title=kind, xlabel="learning rate")
    panels[0].set_ylabel("training loss")
    panels[0].legend()
    run.plot("rates", figure, "Loss by learning rate, a star at each width's best. Tuned at width 32, the spectral "
             "rule's rate serves width 1024; the standard one's does not.")  # fmt: skip


def experiment(run: Run, *, seeds: int = 2, steps: int = 60) -> None:
    """Norms of start and update, how updates grow with the width, maximal update, and (full) rates over widths.

    Args:
        seeds: of every point of the sweep over learning rates (full only).
        steps: of each of its trainings.
    """
    start_has_the_norm(run)
    update_has_the_norm(run)
    rule_is_maximal_update(run)
    updates_do_not_depend_on_width(run)
    run.text(
        "what it shows",
        "One rate for all widths: under the spectral rule three steps change every layer by the same share of its norm "
        "whether it has 64 units or 2,048. Under the standard start and one common rate, the same steps change wide "
        "hidden and output layers many times as much. The rule fixes powers of the width, not constants: at each width "
        "a standard network with a rate of its own may train as fast or faster.",
    )
    if not run.quick:
        best_rate_stays(run, seeds=seeds, steps=steps)
