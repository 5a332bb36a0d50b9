"""A model zoo whose grid covers the phases of training, and the landscape metrics that tell them (2025)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.analysis import connectivity
from gramian.analysis.landscape import bezier, metrics, similarity
from gramian.lab import Card, Run
from gramian.linalg.spectral import lanczos
from gramian.optim import curvature
from gramian.science import model_zoo

CARD = Card(
    title="A Model Zoo on Phase Transitions in Neural Networks",
    row=36,
    arxiv="2504.18072",
    year=2025,
    kind="dataset",
    idea="Networks trained on a grid of sizes (load), batch sizes (temperature) and seeds fall into phases, told by "
    "the training loss, the connectivity of seeds by curves, and the likeness of their outputs. A zoo keeps settings, "
    "history, weights and these metrics of every network.",
    claim="A grid over load and temperature covers the known phases, and the phase says if weights can be averaged.",
    keywords=(
        "weight space learning",
        "loss landscape",
        "mode connectivity",
        "CKA",
        "Hessian trace",
        "model averaging",
    ),
    api=(
        "gramian.science.model_zoo.ZooReader",
        "gramian.science.model_zoo.make_zoo",
        "gramian.science.model_zoo.classify_phase",
        "gramian.analysis.landscape.metrics.landscape_metrics",
        "gramian.analysis.landscape.bezier.bezier_connect",
        "gramian.analysis.landscape.similarity.linear_cka",
    ),
    use="zoo = ZooReader('zoo')  # published, or of make_zoo\nfor cell, models in zoo.cells().items():\n"
    "    landscape_metrics([m.load(build) for m in models], loss, (x, y))",
    reach="the twelve published zoos, of 2,500 networks up to 900M parameters; a zoo of 36 small networks stands in",
    differs=(
        "A zoo written here keeps weights as safetensors, not as pickled torch files; both are read.",
        "The curve's bend is trained by Adam for some steps, not by SGD for ten epochs.",
    ),
)

WIDTHS, BATCHES = (2, 4, 16, 64), (16, 64, 256)
LIMITS = model_zoo.Thresholds(train_loss=0.85, barrier=0.025, similarity=0.8)


def _data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """400 digits, a tenth of their labels drawn at random, and the other 1,397 as they are."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(digits.target), generator=generator)
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    noisy = y[:400].clone()
    hit = torch.rand(400, generator=generator) < 0.1
    noisy[hit] = torch.randint(10, (int(hit.sum()),), generator=generator)
    return x[:400], noisy, x[400:], y[400:]


def _loss(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(module(x), y)


def _errors(module: Any, x: Tensor, y: Tensor) -> Tensor:
    return (module(x).argmax(-1) != y).float().mean()


def _build(config: Mapping[str, Any]) -> nn.Sequential:
    generator = torch.Generator().manual_seed(config[model_zoo.SEED])
    layers: list[nn.Module] = []
    width = config[model_zoo.LOAD]
    for fan_in, fan_out in itertools.pairwise((64, width, width, 10)):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.uniform_(layer.bias, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Train:
    """Settings → metrics after every epoch, and the networks at the start and the end.

    Args:
        epochs: of plain stochastic gradient descent at rate `lr`.
    """

    def __init__(self, epochs: int, lr: float) -> None:
        self.epochs, self.lr = epochs, lr

    def __call__(self, config: Mapping[str, Any]) -> tuple[list[dict[str, float]], dict[int, nn.Module]]:
        torch.set_num_threads(1)
        x, y, test_x, test_y = _data()
        model = _build(config)
        start = copy.deepcopy(model)
        with torch.no_grad():
            first = float(_loss(model, x, y))
        history = optim.fit(
            model, (x, y), _loss, epochs=self.epochs, batch_size=config[model_zoo.TEMPERATURE], lr=self.lr,
            optimizer=lambda groups: torch.optim.SGD(groups),
            generator=torch.Generator().manual_seed(config[model_zoo.SEED]), show_progress=False,
        )  # fmt: skip
        rows = [{"train_loss": value} for value in [first, *history["loss"]]]
        with torch.no_grad():
            for row, network in ((rows[0], start), (rows[-1], model)):
                row["train_loss"] = float(_loss(network, x, y))
                row["test_acc"] = 1 - float(_errors(network, test_x, test_y))
        return rows, {0: start, self.epochs: model}


def round_trip(run: Run) -> None:
    """Four networks trained, written, and read again."""
    configs = list(model_zoo.grid((4, 16), (64,), (run.seed, run.seed + 1)))
    train = Train(2, 0.2)
    zoo = model_zoo.make_zoo(run.out / "zoo-of-four", configs, train)
    read = model_zoo.ZooReader(run.out / "zoo-of-four")
    same = 0
    for model in read.models.values():
        rows, networks = train(model.config)
        states = [(model.state(e), n.state_dict()) for e, n in networks.items()]
        same += model.rows == rows and all(
            a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b) for a, b in states
        )
    run.check("models written and read again, bit for bit", same, equals=4)
    kept = sum(m.config in configs for m in read.models.values())
    run.check("settings read again", kept, equals=4)
    files = {f.suffix for f in zoo.path.rglob("*") if f.is_file()}
    run.check("kinds of files in the zoo", sorted(files), equals=[".json", ".safetensors"])


def metrics_are_exact(run: Run) -> None:
    """Each landscape metric against an oracle."""
    generator = run.generator()
    x, y = (torch.randn(60, k, generator=generator, dtype=torch.float64) for k in (12, 7))
    y = y + x[:, :7]
    turn = torch.linalg.qr(torch.randn(7, 7, generator=generator, dtype=torch.float64)).Q
    cka = similarity.linear_cka(x, y)
    turned = similarity.linear_cka(x, 3 * y @ turn - 1)
    run.check("CKA after a rotation, a shift and a scale (change)", abs(turned - cka), below=1e-10)
    centre = torch.eye(60, dtype=torch.float64) - 1 / 60
    a, b = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    run.check("CKA against centred kernels (error)", abs(cka - (a * b).sum() / (a.norm() * b.norm())), below=1e-10)

    config = {model_zoo.LOAD: 6, model_zoo.TEMPERATURE: 32, model_zoo.SEED: run.seed}
    train = Train(6, 0.2)
    ends = [train({**config, model_zoo.SEED: run.seed + k})[1][6] for k in range(2)]
    data = _data()[:2]
    hessian = curvature.Hessian(ends[0], _loss, data)
    dense = torch.stack([hessian(row) for row in torch.eye(hessian.size)]).double()
    top = float(torch.linalg.eigvalsh((dense + dense.T) / 2)[-1])
    settings = {"generator": run.generator(1), "dtype": torch.float32}
    trace = lanczos.hutch_plus_plus(hessian, hessian.size, 60, **settings).value
    claim = f"trace of the Hessian by 60 products, {hessian.size} parameters (relative error)"
    run.check(claim, abs(trace / float(dense.trace()) - 1), below=0.03)
    found = metrics.landscape_metrics(ends, _loss, data, names=("hessian_top",), products=40)["hessian_top"]
    other = curvature.Hessian(ends[1], _loss, data)
    both = torch.stack([other(row) for row in torch.eye(other.size)]).double()
    top = (top + float(torch.linalg.eigvalsh((both + both.T) / 2)[-1])) / 2
    run.check("largest eigenvalue, mean of two networks (relative error)", abs(found / top - 1), below=1e-3)

    curve = bezier.bezier_connect(*ends, _loss, data, steps=60, batch_size=400, generator=run.generator(2))
    layout = curvature.Layout(ends[0])
    gap = max(float((layout.read(curve.network(k)) - layout.read(ends[k])).abs().max()) for k in (0, 1))
    run.check("ends of the curve against the networks (largest difference)", gap, equals=0.0)
    bent, line = (c.along(_loss, data, 13) for c in (curve, bezier.BezierCurve(*ends)))
    run.check("mean loss on the trained curve over that on the line", float(bent.mean() / line.mean()), below=0.9)
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5, 3.4))
    for label, values in (("straight line", line), ("curve", bent)):
        panel.plot(
            torch.linspace(0, 1, 13), values, "o-", label=f"{label}: mc = {bezier.mode_connectivity(values):+.2f}"
        )
    panel.set(xlabel="from one network to the other", ylabel="training loss")
    panel.legend()
    run.plot("curve", figure, "Two trainings of the same small network from different starts, and what lies between.")


def phases_are_told(run: Run) -> None:
    """The classifier on a table with known phases, all corners of it."""
    limits = model_zoo.Thresholds(train_loss=0.1, barrier=0.05, similarity=0.8)
    known = {"I": (1.0, -0.3, 0.5), "II": (1.0, 0.4, 0.9), "III": (0.02, -0.3, 0.9), "IV-A": (0.02, 0.01, 0.5),
             "IV-B": (0.02, -0.01, 0.95)}  # fmt: skip
    generator, right, total = run.rng(), 0, 0
    for phase, (loss, mc, cka) in known.items():
        for _ in range(20):
            jitter = generator.uniform(0.7, 1.05, 3)
            row = dict(zip(("train_loss", "connectivity", "similarity"), np.array([loss, mc, cka]) * jitter))
            if phase == "IV-B":
                row["similarity"] = max(row["similarity"], 0.8)
            right += model_zoo.classify_phase(row, limits) == phase
            total += 1
    run.check(f"phases told right, of {total}", right, equals=total)


def _cell(
    library: Mapping[str, Callable[..., Any]], models: Sequence[model_zoo.ZooModel], seed: int
) -> dict[str, float]:
    """Landscape metrics of the seeds of one cell, and what averaging their weights costs."""
    torch.set_num_threads(1)
    x, y, test_x, test_y = _data()
    networks = [m.load(_build) for m in models]
    found = library["metrics"](
        networks, _loss, (x, y), measure=_errors, products=18, steps=60,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    rises: dict[str, list[float]] = {"averaging": [], "averaging, matched": []}
    with torch.no_grad():
        own = [float(_errors(n, test_x, test_y)) for n in networks]
        for (i, a), (j, b) in itertools.combinations(enumerate(networks), 2):
            matched = library["align"](a, b, generator=torch.Generator().manual_seed(seed))
            for name, other in (("averaging", b), ("averaging, matched", matched)):
                middle = connectivity.interpolate(a, other, 0.5)
                rises[name].append(float(_errors(middle, test_x, test_y)) - (own[i] + own[j]) / 2)
    return found | {k: sum(v) / len(v) for k, v in rises.items()} | {"test_error": sum(own) / len(own)}


def zoo_covers_phases(run: Run, seeds: int = 3, epochs: int = 30) -> None:
    """A zoo over widths, batch sizes and seeds: its metrics, its phases, and averaging in each."""
    import pandas

    path = run.out / "zoo"
    configs = model_zoo.grid(WIDTHS, BATCHES, range(run.seed, run.seed + seeds))
    zoo = model_zoo.make_zoo(path, configs, Train(epochs, 0.3), jobs=2)
    library = {"metrics": metrics.landscape_metrics, "align": connectivity.align_hidden_units}
    cells = zoo.cells()
    jobs = [joblib.delayed(_cell)(library, models, run.seed) for models in cells.values()]
    results = joblib.Parallel(n_jobs=2, return_as="generator")(jobs)
    rows = []
    for (cell, models), found in zip(cells.items(), run.progress(results, "landscape", total=len(jobs))):
        phase = model_zoo.classify_phase(found, LIMITS)
        for model in models:
            model.annotate(epochs, {k: v for k, v in found.items() if k != "train_loss"})
        rows.append({"width": cell[0], "batch size": cell[1], "phase": phase, **found})
    run.table("zoo", rows, f"{len(zoo)} networks, means over {seeds} seeds and their pairs. averaging: rise of the "
              "test error when the weights of two seeds are averaged; matched: after their units are.")  # fmt: skip
    frame = pandas.DataFrame(rows)
    at = frame[frame["batch size"] == 64].sort_values("width")["train_loss"].to_numpy()
    fall = float((at[1:] / at[:-1]).max())
    run.check("training loss at batch 64 falls with width (largest ratio of neighbours)", fall, below=0.97)
    run.check("phases in the zoo", frame["phase"].nunique(), above=3, paper="full coverage of five phases in each zoo")
    stored = model_zoo.ZooReader(path).table(("similarity", "hessian_trace"), epoch=epochs)
    run.check("networks of the zoo that carry their metrics", int(stored.notna().all(axis=1).sum()), equals=len(zoo))
    by = frame.groupby("phase")[["averaging", "averaging, matched", "test_error", "hessian_trace"]].mean()
    run.table("phases", by.assign(cells=frame.groupby("phase").size()), "Means over the cells of a phase.")
    alike = frame["phase"] == "IV-B"
    gap = float(frame[~alike]["averaging, matched"].mean() - frame[alike]["averaging, matched"].mean())
    run.check("averaging two matched seeds: rise of the test error in other phases, above IV-B's", gap, above=0.03,
              paper="averaging works where networks are trained, connected and alike")  # fmt: skip
    missing = [p for p in model_zoo.PHASES if p not in set(frame["phase"])]
    run.text(
        "coverage",
        f"Phases in this zoo: {', '.join(sorted(set(frame['phase'])))}; not in it: {', '.join(missing) or 'none'}. "
        "Small networks that reach a low loss here are connected by their curve; the phase of low loss behind a "
        "barrier did not appear on this data. "
        "The thresholds were set for this grid.",
    )
    _maps(run, frame)


def _maps(run: Run, frame: Any) -> None:
    from matplotlib import pyplot

    shown = ("train_loss", "connectivity", "similarity", "hessian_trace", "averaging", "averaging, matched")
    figure, panels = pyplot.subplots(2, 3, figsize=(9.5, 5.6))
    for panel, name in zip(panels.flat, shown):
        grid = frame.pivot(index="batch size", columns="width", values=name)
        image = panel.imshow(grid.to_numpy(), aspect="auto", cmap="viridis", alpha=0.5)
        for (i, batch), (j, width) in itertools.product(enumerate(grid.index), enumerate(grid.columns)):
            cell = frame[(frame["batch size"] == batch) & (frame["width"] == width)].iloc[0]
            panel.text(j, i, cell["phase"], ha="center", va="center", fontsize=8)
        panel.set_xticks(range(len(grid.columns)), grid.columns)
        panel.set_yticks(range(len(grid.index)), grid.index)
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.grid(False)
        figure.colorbar(image, ax=panel)
    for panel in panels[1]:
        panel.set_xlabel("width")
    for panel in panels[:, 0]:
        panel.set_ylabel("batch size")
    run.plot("phases", figure, "Load runs from right to left, temperature from bottom to top. In each cell, its phase.")


def experiment(run: Run, *, seeds: int = 3, epochs: int = 30) -> None:
    """A zoo written and read, the metrics against oracles, the phases' rules, and (full) a zoo over its grid.

    Args:
        seeds: in every cell of the grid (full only).
        epochs: of each training of the grid.
    """
    round_trip(run)
    metrics_are_exact(run)
    phases_are_told(run)
    run.table("rules", [
        {"phase": "I", "training loss": "high", "between seeds": "barrier"},
        {"phase": "II", "training loss": "high", "between seeds": "no barrier"},
        {"phase": "III", "training loss": "low", "between seeds": "barrier"},
        {"phase": "IV-A", "training loss": "low", "between seeds": "no barrier, outputs dissimilar"},
        {"phase": "IV-B", "training loss": "low", "between seeds": "no barrier, outputs alike"},
    ], "How a cell's phase is told; the thresholds belong to a zoo.")  # fmt: skip
    run.text(
        "phases",
        "A zoo is a grid of trainings whose cells are told apart by what lies between their seeds: a curve of low "
        "loss, a ridge, or outputs that agree.",
    )
    if not run.quick:
        zoo_covers_phases(run, seeds=seeds, epochs=epochs)
