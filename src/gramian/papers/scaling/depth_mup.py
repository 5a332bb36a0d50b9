"""Tensor Programs VI: multipliers and rates under which residual networks grow deeper (Yang et al., 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Card, Run
from gramian.nn import residual
from gramian.optim.parametrization import depth

CARD = Card(
    title="Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks",
    row=152,
    arxiv="2310.02244",
    year=2023,
    kind="method",
    idea="Divide each residual branch by √depth, and Adam's rate in the blocks too: then every block does a share of "
    "its own, features learn at every depth, and what was tuned on a shallow network serves a deep one.",
    claim="Among the powers of the depth that train at all, 1/2 maximizes how different the blocks' work is; learning "
    "rates transfer over depths, and the absolute value, whose features differ most, trains better than ReLU.",
    keywords=(
        "muP",
        "depth",
        "residual network",
        "learning rate transfer",
        "feature diversity",
        "hyperparameter transfer",
    ),
    api=(
        "gramian.optim.parametrization.depth.depth_mup",
        "gramian.optim.parametrization.depth.diversity_exponent",
        "gramian.nn.residual.ResidualBlock",
        "gramian.nn.residual.Centred",
    ),
    use="model, groups = depth_mup(model, base_depth=8, lr=1e-3)\noptimizer = torch.optim.Adam(groups)",
    reach="Megatron transformers on Common Crawl and networks of 256 blocks on CIFAR-10; digits stand in",
    differs=(
        "With the multiplier alone the best rate should fall like 1/√depth, by 4 from 4 to 64 blocks; on digits and "
        "60 steps it falls by about 2. Judged is what that costs: the loss at the rate of 4 blocks.",
        "The paper's absolute value trains better than ReLU; on digits with 64 blocks it ends above ReLU at the rates "
        "tried, after 60 and after 200 steps. Shown in a table, not judged.",
    ),
)


class Network(nn.Module):
    """Digits → `depth` blocks of one matrix and a centred activation each → logits."""

    def __init__(self, width: int, depth: int, activation: str = "relu", layers: int = 1) -> None:
        super().__init__()

        def linear(a: int, b: int) -> nn.Linear:
            layer = nn.utils.skip_init(nn.Linear, a, b, bias=False)
            nn.init.zeros_(layer.weight)
            return layer

        def branch() -> nn.Module:
            parts = [(linear(width, width), residual.Centred(activation)) for _ in range(layers)]
            return nn.Sequential(*(p for pair in parts for p in pair))

        self.first = linear(64, width)
        self.blocks = nn.Sequential(*(residual.ResidualBlock(branch()) for _ in range(depth)))
        self.last = linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


class Make:
    """(depth, seed) → a network whose multiplier at `base_depth` is 1, and its optimizer."""

    def __init__(
        self, apply: Callable[..., Any], lr: float, *, optimizer: str = "adam", alpha: float = 0.5, width: int = 128,
        activation: str = "relu", base_depth: int = 1,
    ) -> None:  # fmt: skip
        self.apply, self.lr, self.width, self.activation = apply, lr, width, activation
        self.settings = {"optimizer": optimizer, "alpha": alpha, "base_depth": base_depth}

    def __call__(self, depth: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        # variance of the centred activation of a standard normal, so that all start alike
        spread = {"relu": 0.5 - 0.5 / math.pi, "abs": 1 - 2 / math.pi}[self.activation]
        model, groups = self.apply(
            Network(self.width, depth, self.activation), lr=self.lr, sigma=1.0, multiplier=(0.68 / spread) ** 0.5,
            generator=torch.Generator().manual_seed(seed), **self.settings,
        )  # fmt: skip
        kind = torch.optim.SGD if self.settings["optimizer"] == "sgd" else torch.optim.Adam
        return model, kind(groups)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return ((x - x.mean()) / x.std())[order], torch.tensor(digits.target)[order]


def _loss(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x), y)


def size_does_not_depend_on_depth(run: Run, depths: Sequence[int] = (4, 8, 16, 32)) -> None:
    """What flows out of the last block, at the start and how much five steps of SGD change it."""
    x, y = (t[:64] for t in _digits())
    rows: list[dict[str, Any]] = []
    for alpha in (0.5, 1.0, 0.0):
        make = Make(depth.depth_mup, 0.05, optimizer="sgd", alpha=alpha)
        seeds = (run.seed, run.seed + 1) if alpha == 0.5 else (run.seed,)
        for each in depths:
            try:
                found = depth.depth_check(make, (each,), (x, y), _loss, steps=5, seeds=seeds)[0]
            except optim.Diverged:  # only its start can be measured
                states = depth.stream(make(each, run.seed)[0], x)
                found = {"feature": float(states[-1].double().square().mean().sqrt()), "change": math.inf}
            rows.append({"power α": alpha, "depth": each, "size": found["feature"], "change": found["change"]})
    run.table("sizes", rows, "Root mean square of the last block's output and of its change in five steps of SGD.")
    of = {a: [r for r in rows if r["power α"] == a] for a in (0.5, 1.0, 0.0)}
    sizes, changes = ([r[k] for r in of[0.5]] for k in ("size", "change"))
    span = f"depths {depths[0]}–{depths[-1]}"
    run.check(
        f"α = 1/2: size over {span} (largest over smallest)", max(sizes) / min(sizes), below=1.5, paper="constant"
    )
    run.check(f"α = 1/2: change over {span} (the same)", max(changes) / min(changes), below=1.5, paper="constant")
    growth = of[0.0][-1]["size"] / of[0.0][0]["size"]
    run.check(f"α = 0: size at depth {depths[-1]} over that at {depths[0]}", growth, above=50, paper="explodes")


def blocks_differ(run: Run, depth_of: int = 128, width: int = 128) -> None:
    """The power κ by which features move along the depth, for blocks of their own and for one shared block."""
    x = _digits()[0][:64]
    found, curves = {}, {}
    for name, alpha, tied in (("own weights, α = 1/2", 0.5, False), ("one shared weight, α = 1", 1.0, True)):
        model, _ = Make(depth.depth_mup, 1.0, alpha=alpha, width=width)(depth_of, run.seed)
        if tied:
            with torch.no_grad():
                for block in model.blocks:
                    block.branch[0].weight.copy_(model.blocks[0].branch[0].weight)
        states = depth.stream(model, x)
        found[name] = depth.diversity_exponent(states)
        lags = [2**k for k in range(int(math.log2(depth_of / 4)) + 1)]
        curves[name] = (lags, [float((states[k:] - states[:-k]).square().mean().sqrt()) for k in lags])
    own, tied = found.values()
    run.check("own weights, α = 1/2: power κ of feature diversity", own, between=(0.43, 0.57), paper="1/2")
    run.check("one shared weight, α = 1: power κ", tied, between=(0.93, 1.07), paper="1")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.4, 3.4))
    for name, (lags, moved) in curves.items():
        panel.loglog(lags, moved, "o-", label=f"{name}: κ = {found[name]:.2f}")
    panel.set(xlabel="blocks between", ylabel="difference of the features (rms)")
    panel.legend()
    run.plot("diversity", figure, f"How far features are apart, by the number of blocks between, {depth_of} blocks at "
             "the start. Blocks of their own walk at random; copies of one block march.")  # fmt: skip


def groups_are_exact(run: Run) -> None:
    """Multipliers and rates against the paper's table, four times as deep as the base."""
    expected = {
        ("adam", 0.5): (0.5, 0.5),
        ("sgd", 0.5): (0.5, 1.0),
        ("adam", 1.0): (0.25, 1.0),
        ("sgd", 1.0): (0.25, 4.0),
    }
    wrong, rows = 0, []
    for (optimizer, alpha), (multiplier, factor) in expected.items():
        model = Network(16, 32)
        settings = {"optimizer": optimizer, "alpha": alpha, "base_depth": 8, "generator": run.generator()}
        model, groups = depth.depth_mup(model, lr=1.0, **settings)
        rate = {id(p): g["lr"] for g in groups for p in g["params"]}
        inside = {rate[id(b.branch[0].weight)] for b in model.blocks}
        outside = {rate[id(model.first.weight)], rate[id(model.last.weight)]}
        held = {b.multiplier for b in model.blocks}
        wrong += (inside != {factor}) + (outside != {1.0}) + (held != {multiplier})
        rows.append({"optimizer": optimizer, "power α": alpha, "multiplier": max(held), "rate in blocks": max(inside),
                     "rate elsewhere": max(outside)})  # fmt: skip
    run.table("groups", rows, "At 32 blocks, over what they are at 8.")
    run.check("multipliers and rates that differ from the table, of 12", wrong, equals=0, paper="table 1")


def deep_blocks_warn(run: Run) -> None:
    """A block of two layers has no optimal powers, and the rule says so; a block of one says nothing."""
    told = []
    for layers in (1, 2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            depth.depth_mup(Network(16, 4, layers=layers), base_depth=4, lr=1.0, generator=run.generator())
        told.append(sum(issubclass(w.category, depth.DeepBlock) for w in caught))
    run.check("warnings for blocks of one and of two layers", told, equals=[0, 1], paper="limits of deeper blocks")


def _trained(make: Make, depth_of: int, seed: int, steps: int) -> float:
    """The training loss after some steps; infinite if it ran away."""
    torch.set_num_threads(1)
    x, y = (t[:1400] for t in _digits())
    model, optimizer = make(depth_of, seed)
    try:
        optim.fit(
            model, (x, y), _loss, steps=steps, batch_size=64, optimizer=lambda _: optimizer, schedule="linear",
            generator=torch.Generator().manual_seed(seed), show_progress=False,
        )  # fmt: skip
    except optim.Diverged:
        return math.inf
    with torch.no_grad():
        value = float(_loss(model, x, y))
    return value if math.isfinite(value) else math.inf


def _multiplier_only(model: Network, *, base_depth: int, multiplier: float, **settings: Any) -> Any:
    """The branches as under the rule, the rate of a shallow network everywhere."""
    blocks = len(model.blocks)
    return depth.depth_mup(model, base_depth=blocks, multiplier=multiplier * (base_depth / blocks) ** 0.5, **settings)


def _without_rule(model: Network, *, base_depth: int, **settings: Any) -> Any:
    """Branches and rate of a shallow network at every depth."""
    return depth.depth_mup(model, base_depth=len(model.blocks), **settings)


def best_rate_stays(run: Run, depths: Sequence[int] = (4, 16, 64), seeds: int = 2, steps: int = 60) -> None:
    """Loss by learning rate and depth, Adam: under the rule, with its multiplier only, and without."""
    rules = {
        "Depth-μP": (depth.depth_mup, range(-9, -5)),
        "multiplier only": (_multiplier_only, range(-10, -5)),
        "no rule": (_without_rule, range(-10, -7)),
    }
    grids = {kind: [2.0**k for k in powers] for kind, (_, powers) in rules.items()}
    jobs = [
        (kind, lr, each, run.seed + s)
        for each in reversed(depths) for kind in rules for lr in grids[kind] for s in range(seeds)
    ]  # fmt: skip
    calls = (
        joblib.delayed(_trained)(Make(rules[kind][0], lr, width=64, base_depth=depths[0]), each, seed, steps)
        for kind, lr, each, seed in jobs
    )
    results = joblib.Parallel(n_jobs=2, return_as="generator")(calls)
    losses: dict[tuple[str, int, float], list[float]] = {}
    for (kind, lr, each, _), value in zip(jobs, run.progress(results, "learning rates", total=len(jobs))):
        losses.setdefault((kind, each, lr), []).append(value)
    mean = {key: math.exp(sum(math.log(v) for v in values) / len(values)) for key, values in losses.items()}
    curves = {(k, d): [mean[k, d, lr] for lr in grids[k]] for k in rules for d in depths}
    best = {(k, d): grids[k][min(range(len(c)), key=c.__getitem__)] for (k, d), c in curves.items()}
    lowest = {(k, d): _lowest(grids[k], c) for (k, d), c in curves.items()}
    rows = [
        {"rule": k, "depth": d, "best of the grid": best[k, d], "lowest point": lowest[k, d], "loss": min(curves[k, d]),
         "loss at the shallowest's best": mean[k, d, best[k, depths[0]]]} for k in rules for d in depths
    ]  # fmt: skip
    run.table("rates", rows, f"Training loss on digits after {steps} steps of Adam, geometric mean of {seeds} seeds; "
              "the lowest point is that of a parabola through the best of the grid and its neighbours. With the "
              "multiplier alone it should fall like 1/√depth.")  # fmt: skip
    span = f"depths {depths[0]}–{depths[-1]}"
    points = [lowest["Depth-μP", d] for d in depths]
    run.check(f"Depth-μP: lowest point varies over {span} by", max(points) / min(points), below=1.4, paper="constant")
    for kind, bound in (("Depth-μP", {"below": 1.5}), ("multiplier only", {"above": 2.0})):
        regret = mean[kind, depths[-1], best[kind, depths[0]]] / min(curves[kind, depths[-1]])
        claim = f"{kind}: loss of {depths[-1]} blocks at the best rate of {depths[0]}, over their own best"
        run.check(claim, regret, paper="rates transfer" if "below" in bound else "rates do not transfer", **bound)
    worse = min(curves["no rule", depths[-1]]) / min(curves["Depth-μP", depths[-1]])
    run.check(f"no rule, {depths[-1]} blocks: best loss over Depth-μP's", worse, above=10, paper="explodes")
    _plot_rates(run, grids, curves, depths)


def _lowest(grid: list[float], curve: list[float]) -> float:
    """Where a parabola through the best point and its neighbours is lowest, both axes logarithmic."""
    at = min(range(len(curve)), key=curve.__getitem__)
    if not 0 < at < len(grid) - 1 or not math.isfinite(curve[at - 1] + curve[at + 1]):
        return grid[at]
    left, middle, right = (math.log(curve[k]) for k in (at - 1, at, at + 1))
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return grid[at] * (grid[at + 1] / grid[at]) ** shift


def _plot_rates(
    run: Run, grids: dict[str, list[float]], curves: dict[tuple[str, int], list[float]], depths: Sequence[int]
) -> None:
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
    for panel, (kind, grid) in zip(panels, grids.items()):
        for i, each in enumerate(depths):
            curve = curves[kind, each]
            panel.loglog(grid, curve, "o-", color=f"C{i}", label=f"{each} blocks")
            at = min(range(len(curve)), key=curve.__getitem__)
            panel.loglog([grid[at]], [curve[at]], "*", ms=14, color=f"C{i}")
        panel.set(title=kind, xlabel="learning rate", ylim=(1e-2, 3))
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    panels[0].set_ylabel("training loss")
    panels[0].legend()
    run.plot("rates", figure, "Loss by learning rate, a star at each depth's best; what ran away is above the frame.")


def activations_side_by_side(run: Run, depth_of: int = 64, seeds: int = 2, steps: int = 60) -> None:
    """ReLU and the absolute value, the same start of the stream, over two rates: shown, not judged."""
    rates = (2.0**-8, 2.0**-7)
    jobs = [(a, lr, run.seed + s) for a in ("relu", "abs") for lr in rates for s in range(seeds)]
    calls = (
        joblib.delayed(_trained)(Make(depth.depth_mup, lr, width=64, activation=a, base_depth=4), depth_of, s, steps)
        for a, lr, s in jobs
    )
    results = joblib.Parallel(n_jobs=2, return_as="generator")(calls)
    losses: dict[tuple[str, float], list[float]] = {}
    for (a, lr, _), value in zip(jobs, run.progress(results, "activations", total=len(jobs))):
        losses.setdefault((a, lr), []).append(value)
    rows = [{"activation": a, "lr": lr, "loss": sum(v) / len(v)} for (a, lr), v in losses.items()]
    run.table("activations", rows, f"Training loss of {depth_of} blocks after {steps} steps, mean of {seeds} seeds. "
              "The paper has the absolute value ahead; here it is not.")  # fmt: skip


def experiment(run: Run, *, seeds: int = 2, steps: int = 60) -> None:
    """Sizes over depths, diversity, the groups, deep blocks, and (full) learning rates over depths and activations.

    Args:
        seeds: of every point of the sweep over learning rates (full only).
        steps: of each of its trainings.
    """
    size_does_not_depend_on_depth(run)
    blocks_differ(run)
    groups_are_exact(run)
    deep_blocks_warn(run)
    run.text(
        "what it shows",
        "With branches divided by √depth, 32 blocks put out as much as 4 and learn as much in a step. Without, what "
        "flows grows with every block. And the blocks stay different: features move apart like the square root of the "
        "blocks between them, where copies of one block would move in a straight line.",
    )
    if not run.quick:
        best_rate_stays(run, seeds=seeds, steps=steps)
        activations_side_by_side(run, steps=steps)
