"""Scale up: tune the learning rate on a small network, and use it on a wide or deep one without tuning again.

The data are the digits, or samples of yours: ``--data data.npz`` with ``x`` (samples, features) and labels ``y``. A
residual network grows in width (``--set axis=width``) or in blocks (``--set axis=depth``); every rule gets the same
grid of learning rates at the smallest size and at the largest.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Run
from gramian.nn.residual import Centred, ResidualBlock
from gramian.optim.parametrization import depth, rules
from gramian.tasks.support.classifier import read_samples
from gramian.tasks.support.contract import Method, Problem, name_of

TITLE = "Scale up"
HEADLINE = "transferred"
METRICS = {"transferred": "lower", "best": "lower", "regret": "lower", "shift": "lower"}
DEFAULT = "digits"

_POWERS = range(-11, -3)
_AXES = {"width": ((32, 128, 512), 4), "depth": ((4, 16, 64), 64)}


class Network(nn.Module):
    """Features → blocks of one matrix and a centred ReLU each → scores."""

    def __init__(self, features: int, width: int, depth: int, classes: int) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Linear:
            # every rule draws the start; without one of torch's own the global random state stays as it is
            layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
            nn.init.zeros_(layer.weight)
            return layer

        self.first = linear(features, width)
        self.blocks = nn.Sequential(
            *(ResidualBlock(nn.Sequential(linear(width, width), Centred("relu"))) for _ in range(depth))
        )
        self.last = linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


@dataclass(frozen=True)
class Subject:
    """Samples, and the sizes that a rule is asked for.

    Attributes:
        sizes: along the axis, smallest first.
        other: the size that stays.
    """

    x: Tensor
    y: Tensor
    classes: int
    axis: str
    sizes: tuple[int, ...]
    other: int
    steps: int

    def network(self, size: int) -> Network:
        width, blocks = (size, self.other) if self.axis == "width" else (self.other, size)
        return Network(self.x.shape[1], width, blocks, self.classes)


class Sweep:
    """Losses by size and learning rate; saved as JSON with the picture beside it.

    Attributes:
        losses: {size: {learning rate: loss after training}}; infinite where it ran away.
    """

    def __init__(self, method: str, axis: str, losses: dict[int, dict[float, float]]) -> None:
        self.method, self.axis, self.losses = method, axis, losses

    def best(self, size: int) -> float:
        """The learning rate of the smallest loss."""
        return min(self.losses[size], key=self.losses[size].__getitem__)

    def figures(self) -> dict[str, float]:
        """What the smallest network's best rate costs the largest."""
        sizes = sorted(self.losses)
        rate, own = self.best(sizes[0]), self.best(sizes[-1])
        transferred, best = self.losses[sizes[-1]][rate], self.losses[sizes[-1]][own]
        return {
            "transferred": min(transferred, 1e6),  # a table has no room for infinity
            "best": best,
            "regret": min(transferred / best, 1e6),
            "shift": abs(math.log2(rate / own)),
        }

    def save(self, path: Path) -> None:
        """Write ``.sweep.json`` and ``sweep.png`` beside `path`."""
        written = {"method": self.method, "axis": self.axis,
                   "losses": {str(s): {str(r): v if math.isfinite(v) else None for r, v in c.items()}
                              for s, c in self.losses.items()}}  # fmt: skip
        Path(path).with_suffix(".sweep.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
        _picture(self, Path(path).parent / "sweep.png")

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """The sweep that was written beside `path`."""
        read = json.loads(Path(path).with_suffix(".sweep.json").read_text(encoding="utf-8"))
        losses = {int(s): {float(r): math.inf if v is None else v for r, v in c.items()}
                  for s, c in read["losses"].items()}  # fmt: skip
        return cls(read["method"], read["axis"], losses)


def load(
    data: str, target: str | None = None, *, axis: str = "width", sizes: str = "", other: int = 0, steps: int = 60
) -> Problem:
    """Read the samples and settle the sizes.

    Args:
        data: ``digits``, or an .npz file with x (samples, features) and y.
        axis: ``width`` or ``depth``.
        sizes: the sizes along it, separated by commas; the rate is tuned on the smallest.
        other: the blocks of networks that grow in width, or the width of those that grow in depth; 0 for 4 and 64.
        steps: of Adam in each training.

    Raises:
        ValueError: an unknown axis, fewer than two sizes, sizes below 1, or samples that are not rows of features.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: the labels stand in the samples' file, as y")
    if axis not in _AXES:
        raise ValueError(f"axis={axis!r} must be one of {', '.join(_AXES)}")
    if steps < 1 or other < 0:
        raise ValueError(f"steps={steps} must be at least 1 and other={other} at least 0")
    try:
        chosen = tuple(sorted({int(s) for s in sizes.split(",")})) if sizes else _AXES[axis][0]
    except ValueError:
        raise ValueError(f"sizes={sizes!r} must be whole numbers separated by commas, such as 32,128,512") from None
    if len(chosen) < 2 or chosen[0] < 1:
        raise ValueError(f"sizes={sizes!r}: at least two different sizes of at least 1 are needed")
    if data == DEFAULT:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y, name = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target), data
    else:
        (x, y), name = read_samples(Path(data)), Path(data).stem
    if x.ndim != 2 or len(x) < 2 or not bool(x.std() > 0):
        raise ValueError(f"x has shape {tuple(x.shape)}: at least two rows of features that are not all equal")
    if int(y.min()) < 0:
        raise ValueError(f"y holds {int(y.min())}: labels count from 0")
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    kept = other or _AXES[axis][1]
    subject = Subject(x[order], y[order], int(y.max()) + 1, axis, chosen, kept, steps)
    facts = {"samples": len(x), "axis": axis, axis: ", ".join(map(str, chosen)),
             "blocks" if axis == "width" else "width": kept, "steps": steps}  # fmt: skip
    note = (
        f"Training loss after {steps} steps of Adam. transferred: the largest network at the rate that is best for the "
        "smallest; regret: that loss over its own best of the grid; shift: powers of two between the two rates."
    )
    return Problem(name, subject, None, subject, None, note, facts)


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], Sweep]:
    """Train every size at every rate of the grid."""
    subject: Subject = problem.train
    prepare = method.build(run.seed)
    started = time.perf_counter()
    jobs = [(size, 2.0**power) for size in subject.sizes for power in _POWERS]
    losses: dict[int, dict[float, float]] = {size: {} for size in subject.sizes}
    for size, rate in run.progress(jobs, "learning rates"):
        losses[size][rate] = _trained(prepare, subject, size, rate, run.seed)
    if not all(any(map(math.isfinite, c.values())) for c in losses.values()):
        raise ValueError("at some size every learning rate of the grid runs away: are the features on one scale?")
    name = name_of(method, {**METHODS, **BASELINES})
    sweep = Sweep(name, subject.axis, losses)
    return {"fit_s": time.perf_counter() - started, "predict_s": 0.0, **sweep.figures()}, sweep


def predict(model: Sweep, problem: Problem) -> pandas.DataFrame:
    """A row a size and rate: the loss after training."""
    rows = [(model.method, size, rate, loss) for size, c in model.losses.items() for rate, loss in c.items()]
    return pandas.DataFrame(rows, columns=["rule", model.axis, "learning rate", "loss"])


def _trained(prepare: Any, subject: Subject, size: int, rate: float, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    model, groups = prepare(subject, size, rate, generator)
    try:
        optim.fit(
            model, (subject.x, subject.y), lambda m, x, y: F.cross_entropy(m(x), y), steps=subject.steps, batch_size=64,
            optimizer=lambda _: torch.optim.Adam(groups), schedule="linear", generator=generator, show_progress=False,
        )  # fmt: skip
    except optim.Diverged:
        return math.inf
    with torch.no_grad():
        value = float(F.cross_entropy(model(subject.x), subject.y))
    return value if math.isfinite(value) else math.inf


def _picture(sweep: Sweep, path: Path) -> None:
    from matplotlib import pyplot

    from gramian.lab import figures

    with figures.style():
        figure, axes = pyplot.subplots(figsize=(5.6, 3.6))
        for size, curve in sorted(sweep.losses.items()):
            rates = sorted(curve)
            (line,) = axes.loglog(rates, [curve[r] for r in rates], "o-", label=f"{sweep.axis} {size}")
            best = sweep.best(size)
            axes.loglog([best], [curve[best]], "*", markersize=15, color=line.get_color())
        axes.set_xscale("log", base=2)
        axes.set(xlabel="learning rate", ylabel="training loss", title=f"{sweep.method}: a star at each best rate")
        axes.legend()
        figure.savefig(path, dpi=120)
        pyplot.close(figure)


def _standard(seed: int) -> Any:
    def prepare(s: Subject, size: int, rate: float, generator: torch.Generator) -> Any:
        return rules.Parametrization("standard", optimizer="adam").apply(s.network(size), lr=rate, generator=generator)

    return prepare


def _mup(seed: int) -> Any:
    def prepare(s: Subject, size: int, rate: float, generator: torch.Generator) -> Any:
        # along the depth all shapes are the base's: maximal update is then the standard rule
        base = s.network(s.sizes[0] if s.axis == "width" else size)
        rule = rules.Parametrization("mup", base, optimizer="adam")
        return rule.apply(s.network(size), lr=rate, generator=generator)

    return prepare


def _spectral(seed: int) -> Any:
    def prepare(s: Subject, size: int, rate: float, generator: torch.Generator) -> Any:
        # its rates fall with the fan-in: the grid is meant for the smallest width
        width = s.sizes[0] if s.axis == "width" else s.other
        rule = rules.Parametrization("spectral", optimizer="adam")
        return rule.apply(s.network(size), lr=rate * width, generator=generator)

    return prepare


def _depth_mup(seed: int) -> Any:
    def prepare(s: Subject, size: int, rate: float, generator: torch.Generator) -> Any:
        base = s.network(s.sizes[0]) if s.axis == "width" else None
        blocks = s.other if s.axis == "width" else s.sizes[0]
        return depth.depth_mup(s.network(size), base, base_depth=blocks, lr=rate, generator=generator)

    return prepare


METHODS = {
    "mup": Method(_mup, "maximal update: starts, multipliers and rates follow the width", "mup_limits"),
    "spectral": Method(
        _spectral, "spectral condition: every matrix starts and moves by √(out/in)", "spectral_condition"
    ),
    "depth-mup": Method(_depth_mup, "maximal update, and branches and rates that follow √blocks", "depth_mup"),
}
BASELINES = {"standard": Method(_standard, "start by 1/√fan-in, one learning rate for everything")}
