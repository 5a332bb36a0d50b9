"""Magnitude invariant parametrizations: hypernetworks whose weights do not scale with their input (2023)."""

from __future__ import annotations

from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian.lab import Card, Run
from gramian.nn import hyper
from gramian.optim.fit import Diverged, fit

CARD = Card(
    title="Magnitude Invariant Parametrizations Improve Hypernetwork Learning",
    row=204,
    arxiv="2304.07645",
    year=2023,
    kind="architecture",
    idea="A hypernetwork with piecewise linear activations predicts weights in proportion to its input. Encode the "
    "input with constant norm, as cosine and sine, and add the prediction to independent weights.",
    claim="The predicted weights' scale no longer follows the input's, and training becomes stable and faster.",
    keywords=("hypernetwork", "weight prediction", "input encoding", "homogeneity", "conditional network"),
    api=(
        "gramian.nn.hyper.HyperNet",
        "gramian.nn.hyper.encode",
        "gramian.nn.hyper.hypernetize",
    ),
    use='net = hypernetize(network, r"head\\..*", {"strength": (1,)})\n'
    "y = net(x, strength=torch.rand(len(x), 1))  # a weight set for every sample",
    reach="image registration and segmentation networks; digits shifted by the input stand in",
    differs=(
        "A network that is turned into a hypernetwork starts with a zero last layer here, so that it computes at "
        "first what it computed before; the released code keeps a random last layer.",
    ),
)

SHAPES = {"0.weight": (32, 64), "0.bias": (32,), "2.weight": (10, 32), "2.bias": (10,)}


def _spread(net: nn.Module, values: list[float]) -> np.ndarray:
    """The standard deviation of the predicted weight matrices at each γ."""
    with torch.no_grad():
        predicted = [net(g=torch.tensor([v])) for v in values]
    return np.array([float(torch.cat([p[n].reshape(-1) for n in SHAPES if p[n].ndim > 1]).std()) for p in predicted])


def scale_no_longer_follows_the_input(run: Run, nets: int = 5) -> None:
    """The spread of the predicted weights over γ: proportional to γ by default, nearly constant when cured."""
    from matplotlib import pyplot

    values = [float(v) for v in np.linspace(0.05, 1, 20)]
    kinds = {
        "default": {"encoding": None, "residual": False},
        "encoding alone": {"residual": False},
        "encoding and independent weights": {},
    }
    spreads: dict[str, list[np.ndarray]] = {}
    for name, settings in kinds.items():
        spreads[name] = []
        for k in range(nets):
            net = hyper.HyperNet({"g": (1,)}, SHAPES, hidden=(64, 128), generator=run.generator(k), **settings)
            spreads[name].append(_spread(net, values))
    slopes = [s / np.array(values) for s in spreads["default"]]
    drift = max(float(s.max() / s.min() - 1) for s in slopes)
    run.check("default hypernetwork: its weights' spread over γ is constant (largest drift), γ = 0.05 … 1", drift,
              below=1e-5, paper="the disease: h(cγ) = c h(γ)")  # fmt: skip
    for name in ("encoding alone", "encoding and independent weights"):
        ratios = [float(s.max() / s.min()) for s in spreads[name]]
        bound = 1.3 if name != "encoding alone" else 1.8
        run.check(f"{name}: largest over smallest spread, γ = 0.05 … 1, mean of {nets} nets", float(np.mean(ratios)),
                  between=(1 + 1e-6, bound), paper="magnitude invariant")  # fmt: skip
    figure, panel = pyplot.subplots()
    for i, (name, found) in enumerate(spreads.items()):
        for k, curve in enumerate(found):
            panel.plot(values, curve / curve[-1], color=f"C{i}", lw=1.3, label=None if k else name)
    panel.set(xlabel="γ", ylabel="spread of predicted weights / at γ = 1", ylim=(0, None))
    panel.legend()
    run.plot("spread", figure, "Standard deviation of predicted weights over the hypernetwork's input, at the start.")
    table = [{"kind": n, "largest / smallest": float(np.mean([s.max() / s.min() for s in f]))}
             for n, f in spreads.items()]  # fmt: skip
    run.table("spread", table, "Over γ = 0.05 … 1, where γ itself spans a factor of 20.")


def encoding_has_constant_norm(run: Run) -> None:
    """√inputs, whatever the inputs are."""
    g = torch.rand(1000, 7, generator=run.generator(10), dtype=torch.float64)
    gap = (hyper.encode(g).norm(dim=-1) - 7**0.5).abs().max()
    run.check("encoding of 7 inputs: distance of its norm from √7 (largest of 1,000)", gap, below=1e-12)
    codes = hyper.encode(torch.linspace(0, 1, 11, dtype=torch.float64)[:, None])
    nearest = torch.pdist(codes).min()
    run.check("… and it tells inputs 0.1 apart (least distance)", nearest, above=0.1)


def independent_weights_are_the_network(run: Run) -> None:
    """With a zero prediction the network is the one of θ₀; a network that is turned stays itself."""
    generator = run.generator(11)
    net = hyper.HyperNet({"g": (2,)}, SHAPES, generator=generator)
    start = net.layers[-1].bias.detach().clone()
    nn.init.zeros_(net.layers[-1].weight)
    gamma = torch.rand(2, generator=generator)
    flat = torch.cat([w.reshape(-1) for w in net(g=gamma).values()])
    run.check("zero prediction: weights that differ from the independent ones", int((flat != start).sum()), equals=0)
    run.check("… which are those of an ordinary network: spread of its first layer × √64",
              float(net(g=gamma)["0.weight"].detach().std()) * 8, between=(1.2, 1.6))  # fmt: skip
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    x = torch.randn(16, 64, generator=generator)
    turned = hyper.hypernetize(module, r".*", {"g": (2,)}, generator=generator)
    gap = (turned(x, g=gamma) - module(x)).abs().max()
    run.check("a network turned into a hypernetwork: change of its outputs", gap, equals=0.0)
    with torch.no_grad():
        turned.hypernet.layers[-1].weight.normal_(0, 0.1, generator=generator)
    gammas = torch.rand(16, 2, generator=generator)
    loop = torch.cat([turned(x[i : i + 1], g=gammas[i]) for i in range(16)])
    gap = (turned(x, g=gammas) - loop).abs().max() / loop.abs().max()
    run.check("a weight set for every sample: all at once against one by one (relative gap)", gap, below=1e-5)
    moved = (turned(x, g=gammas) - turned(x, g=gammas.flip(0))).abs().max()
    run.check("… where γ matters (largest change)", moved, above=0.01)


def _shifted_digits(generator: torch.Generator, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A batch moved right by γ · 4 pixels, with fractions interpolated, and γ."""
    chosen = torch.randint(len(images), (64,), generator=generator)
    gamma = torch.rand(1, generator=generator)
    whole, part = divmod(float(gamma) * 4, 1)
    x = images[chosen].view(-1, 8, 8)
    x = (1 - part) * x.roll(int(whole), 2) + part * x.roll(int(whole) + 1, 2)
    return x.flatten(1), labels[chosen], gamma


def _curve(classes: Any, settings: dict, optimizer: str, seed: int, steps: int) -> list[float]:
    """Training losses by round, on one thread."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    net = classes["hypernet"]({"g": (1,)}, SHAPES, generator=torch.Generator().manual_seed(seed), **settings)
    model = classes["network"](nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), net)
    chosen = torch.optim.Adam if optimizer == "Adam" else partial(torch.optim.SGD, momentum=0.9)
    try:
        history = fit(
            model, partial(_shifted_digits, images=images, labels=labels),
            lambda m, x, y, g: F.cross_entropy(m(x, g=g), y), steps=steps, per_round=steps // 12,
            lr=2e-3 if optimizer == "Adam" else 0.02, optimizer=chosen,
            generator=torch.Generator().manual_seed(seed), show_progress=False,
        )  # fmt: skip
    except Diverged:
        return []
    return list(history["loss"])


def training_speed(run: Run, seeds: int = 3, steps: int = 240) -> None:
    """Digits shifted by γ: loss curves of the default and the cured hypernetwork; shown, not gated."""
    from matplotlib import pyplot

    kinds = {"default": {"encoding": None, "residual": False}, "magnitude invariant": {}}
    classes = {"hypernet": hyper.HyperNet, "network": hyper.Hypernetized}
    keys = [(kind, o, run.seed + s) for o in ("Adam", "SGD") for kind in kinds for s in range(seeds)]
    calls = (joblib.delayed(_curve)(classes, kinds[kind], o, seed, steps) for kind, o, seed in keys)
    found = run.progress(joblib.Parallel(n_jobs=2, return_as="generator")(calls), "shifted digits", total=len(keys))
    curves = dict(zip(keys, found, strict=True))
    figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.3), sharey=True)
    rows = []
    for panel, optimizer in zip(panels, ("Adam", "SGD"), strict=True):
        for i, kind in enumerate(kinds):
            some = [c for (k, o, _), c in curves.items() if (k, o) == (kind, optimizer) and c]
            for j, curve in enumerate(some):
                panel.semilogy(curve, color=f"C{i}", lw=1.2, label=None if j else kind)
            rows.append({
                "optimizer": optimizer, "hypernetwork": kind, "diverged": seeds - len(some),
                "final loss": float(np.mean([c[-1] for c in some])) if some else None,
                "spread over seeds": float(np.std([c[-1] for c in some])) if some else None,
            })  # fmt: skip
        panel.set(xlabel="round", title=optimizer)
    panels[0].set(ylabel="training loss")
    panels[0].legend()
    run.plot("training", figure, "A network on shifted digits whose weights are all predicted from the shift.")
    run.table("training", rows, f"{steps} steps, {seeds} seeds.")
    final = {(r["optimizer"], r["hypernetwork"]): r["final loss"] for r in rows}
    lower = [o for o in ("Adam", "SGD") if all(final[o, k] is not None for k in kinds)
             and final[o, "magnitude invariant"] < final[o, "default"]]  # fmt: skip
    run.text(
        "training",
        "Whether training is faster is shown and not bounded. In this run the magnitude invariant hypernetwork ends "
        f"at the lower mean loss with {' and '.join(lower) or 'neither optimizer'}.",
    )


def experiment(run: Run, *, seeds: int = 3, steps: int = 240) -> None:
    """The scale of predicted weights, the encoding, the independent weights, and loss curves.

    Args:
        seeds: trainings of each kind (full only).
        steps: of each training.
    """
    scale_no_longer_follows_the_input(run)
    encoding_has_constant_norm(run)
    independent_weights_are_the_network(run)
    run.text(
        "scale",
        "An ordinary hypernetwork predicts weights twenty times larger at γ = 1 than at γ = 0.05, at the start and "
        "for no reason in the data. Cosine and sine of the input, and weights of their own, remove that.",
    )
    if not run.quick:
        training_speed(run, seeds, steps)
