"""Linear mode connectivity: mountainsides, ridges, and the curvature that makes a barrier (Singh et al., 2024)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import joblib
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.analysis import connectivity
from gramian.lab import Card, Run

CARD = Card(
    title="Landscaping Linear Mode Connectivity",
    row=130,
    arxiv="2406.16300",
    year=2024,
    kind="theory",
    idea="Two trainings that share their beginning come down the same mountainside and stay linearly connected; "
    "independent ones come down different sides, with a ridge between. The barrier is the integral of negative "
    "curvature along the line, for the whole network or for one layer.",
    claim="The barrier between solutions follows from the curvature along the line, layer by layer, and falls with "
    "the length of the shared training.",
    keywords=("loss landscape", "barrier", "mode connectivity", "permutation symmetry", "model averaging"),
    api=(
        "gramian.analysis.connectivity.barrier",
        "gramian.analysis.connectivity.barrier_identity",
        "gramian.analysis.connectivity.predicted_barrier",
        "gramian.analysis.connectivity.layerwise_barrier",
        "gramian.analysis.connectivity.align_hidden_units",
        "gramian.analysis.connectivity.split_experiment",
    ),
    use="line = barrier(model_a, model_b, loss, batches)\nline.height, line.middle, line.loss",
    reach="vision networks on CIFAR and ImageNet; multilayer perceptrons on digits stand in",
    differs=(
        "The paper bounds the barrier; here the identity that such bounds start from is evaluated, which is exact "
        "for losses with two continuous derivatives.",
    ),
)

LAYERS = ("0", "2", "4")


def _network(seed: int, widths: tuple[int, ...] = (64, 128, 128, 10), smooth: bool = False) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.uniform_(layer.bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [layer, nn.Tanh() if smooth else nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _loss(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x), y)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


def _train(model: nn.Module, seed: int, epochs: int, lr: float = 5e-3) -> None:
    x, y = _digits()
    generator = torch.Generator().manual_seed(seed)
    optim.fit(model, (x, y), _loss, epochs=epochs, batch_size=128, lr=lr, generator=generator, show_progress=False)


def identity_is_exact(run: Run) -> None:
    """The barrier from curvature along the line, against the loss measured at the middle."""
    worst, rows = 0.0, []
    x = torch.randn(60, 6, generator=run.generator(), dtype=torch.float64)
    y = torch.randint(4, (60,), generator=run.generator(1))
    for pair in range(3):
        a, b = (_network(run.seed + 10 * pair + k, (6, 12, 12, 4), smooth=True).double() for k in range(2))
        with torch.no_grad():
            for p in [*a.parameters(), *b.parameters()]:
                p.mul_(2)
        direct = connectivity.barrier(a, b, _loss, [(x, y)], 3).middle
        integral = connectivity.barrier_identity(a, b, _loss, (x, y))
        predicted = connectivity.predicted_barrier(a, b, _loss, (x, y))[""]
        worst = max(worst, abs(direct - integral))
        rows.append({"pair": pair, "measured": direct, "integral of curvature": integral, "second order": predicted})
    run.table("identity", rows, "The barrier at the middle of the line between two random tanh networks.")
    run.check("barrier at the middle: integral of curvature against the loss itself (worst gap)", worst, below=1e-8)
    run.check("… where the barrier itself is (smallest size)", min(abs(r["measured"]) for r in rows), above=1e-3)


class Product(nn.Module):
    """f = u v, one weight after the other."""

    def __init__(self, u: float, v: float) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.tensor([u], dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor([v], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.u * self.v * x


def two_mirrored_minima(run: Run) -> None:
    """U v = 1 is solved by (1, 1) and (−1, −1): between them the loss is ½ (1 − (1 − 2t)²)²."""

    def loss(module: Any, x: Tensor) -> Tensor:
        return 0.5 * (module(x) - x).square().mean()

    batch = (torch.ones(1, dtype=torch.float64),)
    a, b = Product(1, 1), Product(-1, -1)
    line = connectivity.barrier(a, b, loss, [batch], 21)
    exact = 0.5 * (1 - (1 - 2 * line.t).square()).square()
    gap = (line.excess - exact).abs().max()
    run.check("toy with mirrored minima: barrier against its closed form (largest gap)", gap, below=1e-12)
    run.check("… and at the middle", line.middle, between=(0.5 - 1e-12, 0.5 + 1e-12), paper="½ (0 − 1)²")
    gap = abs(connectivity.barrier_identity(a, b, loss, batch) - 0.5)
    run.check("… from curvature alone (gap)", gap, below=1e-10)


def splits_decide(run: Run, splits: tuple[int, ...] = (0, 1, 2), epochs: int = 5) -> None:
    """Independent starts, a shared start, and shared first epochs."""
    x, y = _digits()
    pairs: dict[Any, tuple[nn.Module, nn.Module]] = {}
    independent = [_network(run.seed + 100 + k) for k in range(2)]
    for k, model in enumerate(independent):
        _train(model, k, epochs)
    pairs["independent"] = (independent[0], independent[1])
    pairs |= connectivity.split_experiment(_train, _network(run.seed), list(splits), epochs)
    lines = {name: connectivity.barrier(a, b, _loss, [(x, y)]) for name, (a, b) in pairs.items()}
    rows = []
    for name, (a, b) in pairs.items():
        ends = [torch.cat([p.detach().reshape(-1) for p in m.parameters()]) for m in (a, b)]
        rows.append({
            "epochs shared": name, "barrier": lines[name].height, "middle": lines[name].middle,
            "loss of the ends": float(lines[name].loss[[0, -1]].mean()),
            "distance of the ends": float((ends[0] - ends[1]).norm()),
        })  # fmt: skip
    run.table("splits", rows, f"Two trainings of {epochs} epochs each on the digits, in different orders of the data.")
    heights = [lines[s].height for s in splits]
    run.check("independent starts: barrier", lines["independent"].height, above=0.2)
    run.check("one start, no shared epoch: barrier", heights[0], below=0.05)
    run.check("shared for an epoch or more: largest barrier", max(heights[1:]), below=0.005)
    rise = max(b - a for a, b in itertools.pairwise(heights))
    run.check("the barrier never rises with the split (largest rise)", rise, below=1e-4)
    aligned = connectivity.align_hidden_units(*independent, generator=run.generator(2))
    matched = connectivity.barrier(independent[0], aligned, _loss, [(x, y)])
    share = matched.height / lines["independent"].height
    run.check("matching hidden units lowers the independent pair's barrier (what is left)", share, below=0.6)
    _plot_lines(run, {**lines, "independent, units matched": matched})


def _plot_lines(run: Run, lines: dict[Any, connectivity.Barrier]) -> None:
    from matplotlib import pyplot

    figure, panel = pyplot.subplots()
    for i, (name, line) in enumerate(lines.items()):
        label = name if isinstance(name, str) else f"parted after {name} epochs"
        panel.plot(line.t, line.loss, "o-", color=f"C{i}", ms=4, label=label)
    panel.set(xlabel="t on the line (1 − t) a + t b", ylabel="loss")
    panel.legend(fontsize=8)
    run.plot(
        "lines", figure,
        "The ridge between independent trainings, its remainder once hidden units are matched, and the flat floor "
        "between trainings that came down the same side.",
    )  # fmt: skip


def matching_undoes_permutations(run: Run) -> None:
    """A network and itself with its hidden units in another order: a barrier that only names make."""
    x, y = _digits()
    model = _network(run.seed + 7)
    _train(model, 0, 3)
    orders = [torch.randperm(128, generator=run.generator(3 + k)) for k in range(2)]
    shuffled = connectivity.permute_hidden_units(model, orders)
    gap = (shuffled(x) - model(x)).abs().max()
    run.check("hidden units in another order: largest change of an output", gap, below=1e-4)
    before = connectivity.barrier(model, shuffled, _loss, [(x, y)]).height
    run.check("… and yet a barrier stands between", before, above=0.2)
    aligned = connectivity.align_hidden_units(model, shuffled, generator=run.generator(5))
    after = connectivity.barrier(model, aligned, _loss, [(x, y)]).height
    run.check("… which matching removes", after, below=1e-6)


def _layers_of_one_seed(
    library: Any, train: Callable[[nn.Module, int, int], None], seed: int, splits: tuple[int, ...], epochs: int
) -> list[dict[str, Any]]:
    """Measured and predicted barriers of every layer at every split, on one thread."""
    torch.set_num_threads(1)
    x, y = _digits()
    pairs: dict[Any, tuple[nn.Module, nn.Module]] = dict(
        library["split"](train, _network(seed, smooth=True), list(splits), epochs)
    )
    others = [_network(seed + 100 + k, smooth=True) for k in range(2)]
    for k, model in enumerate(others):
        train(model, k, epochs)
    pairs["independent"] = (others[0], others[1])
    rows = []
    for name, (a, b) in pairs.items():
        measured = library["layerwise"](a, b, _loss, [(x, y)], LAYERS, points=3)
        predicted = library["predicted"](a, b, _loss, (x, y), LAYERS)
        for layer in LAYERS:
            rows.append({
                "seed": seed, "epochs shared": str(name), "layer": layer, "measured": measured[layer].middle,
                "predicted": predicted[layer],
            })  # fmt: skip
    return rows


def _train_far(model: nn.Module, seed: int, epochs: int) -> None:
    """At a rate at which trainings with one start end visibly apart."""
    _train(model, seed, epochs, lr=1e-2)


def layers_are_predicted(run: Run, seeds: int = 3, splits: tuple[int, ...] = (0, 1, 2), epochs: int = 4) -> None:
    """The second-order predictor of each layer's barrier, ranked against what is measured."""
    library = {
        "split": connectivity.split_experiment,
        "layerwise": connectivity.layerwise_barrier,
        "predicted": connectivity.predicted_barrier,
    }
    jobs = [
        joblib.delayed(_layers_of_one_seed)(library, _train_far, run.seed + s, splits, epochs) for s in range(seeds)
    ]
    rows = []
    for part in run.progress(
        joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs), "layers", total=seeds
    ):
        rows += part
    run.table("layers", rows, "Barrier at the middle when one layer alone moves: measured, and from its curvature.")
    rank = scipy.stats.spearmanr([r["measured"] for r in rows], [r["predicted"] for r in rows]).statistic
    claim = f"predicted against measured barrier, {len(rows)} layers and splits: rank correlation"
    run.check(claim, float(rank), above=0.6, paper="a faithful predictor of layer-wise connectivity")
    near = [r for r in rows if r["epochs shared"] != "independent"]
    error = max(abs(r["predicted"] / r["measured"] - 1) for r in near)
    run.check("trainings with one start: worst relative error of a layer's predicted barrier", error, below=0.25)
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.2, 3.8))
    for i, layer in enumerate(LAYERS):
        some = [r for r in rows if r["layer"] == layer]
        panel.plot([r["measured"] for r in some], [r["predicted"] for r in some], "o", color=f"C{i}", ms=5,
                   label=f"layer {i + 1}", alpha=0.8)  # fmt: skip
    ends = [min(r["measured"] for r in rows), max(r["measured"] for r in rows)]
    panel.plot(ends, ends, "--", color="C7", lw=1)
    panel.set(xlabel="measured barrier of the layer", ylabel="−⅛ dᵀH̄d")
    panel.set_xscale("symlog", linthresh=1e-4)
    panel.set_yscale("symlog", linthresh=1e-4)
    panel.legend()
    run.plot("layers", figure, "A dot for every layer, pair and seed; dashed, equality.")


def ridge_along_the_trajectory(run: Run, epochs: int = 5) -> None:
    """What the pair's middle does while both networks descend."""
    x, y = _digits()
    rows = []
    shared = _network(run.seed)
    starts = {"independent": (_network(run.seed + 100), _network(run.seed + 101)), "one start": (shared, shared)}
    for name, pair in starts.items():
        a, b = (copy.deepcopy(m) for m in pair)
        origin = [torch.cat([p.detach().reshape(-1) for p in m.parameters()]).clone() for m in pair]
        for epoch in range(1, epochs + 1):
            for k, model in enumerate((a, b)):
                _train(model, 50 * (k + 1) + epoch, 1)
            moved = [
                torch.cat([p.detach().reshape(-1) for p in m.parameters()]) - o for m, o in zip((a, b), origin)
            ]  # fmt: skip
            line = connectivity.barrier(a, b, _loss, [(x, y)], 3)
            rows.append({
                "pair": name, "epoch": epoch, "loss of the ends": float(line.loss[[0, -1]].mean()),
                "loss of the middle": float(line.loss[1]),
                "cosine of the ways": float(F.cosine_similarity(*moved, dim=0)),
                "way": float(moved[0].norm()),
            })  # fmt: skip
    run.table("trajectory", rows, "Both networks descend; what their middle does, and how alike their ways are.")
    last = {name: [r for r in rows if r["pair"] == name][-1] for name in starts}
    gap = last["one start"]["cosine of the ways"] - last["independent"]["cosine of the ways"]
    run.check("one start: the ways down are more alike than those of independent starts (cosines' gap)", gap, above=0.3)
    ratio = last["independent"]["loss of the middle"] / last["one start"]["loss of the middle"]
    run.check("independent starts: their middle's loss as a multiple of that with one start", ratio, above=3)


def experiment(run: Run, *, seeds: int = 3, epochs: int = 5) -> None:
    """Exactness of the curvature identity, barriers by split, matching, the trajectory and the layers' predictor.

    Args:
        seeds: starts for which layers are measured (full only).
        epochs: of each training whose barrier is measured.
    """
    identity_is_exact(run)
    two_mirrored_minima(run)
    splits_decide(run, epochs=epochs)
    matching_undoes_permutations(run)
    run.text(
        "ridge",
        "Independent trainings end with a ridge between them, most of which is a matter of names: matching hidden "
        "units lowers it. Trainings with one start and different orders of the data end on one floor.",
    )
    if not run.quick:
        ridge_along_the_trajectory(run)
        layers_are_predicted(run, seeds=seeds)
