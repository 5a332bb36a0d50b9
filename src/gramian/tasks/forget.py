"""Forget a class: a trained classifier that no longer knows some of its training data, without training it anew.

The data are the digits (a small network is trained on them first), or a classifier of yours: a file of its weights
as ``--data net.safetensors``, ``--set factory=net.py:make`` to build it, and ``--set samples=data.npz`` with its
training samples ``x`` and labels ``y``. ``--set forget=3`` names the class.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
from torch import Tensor, nn

from gramian.lab import Run
from gramian.models.opening import build
from gramian.surgery import unlearn
from gramian.surgery.adapters import transfer
from gramian.tasks.support.classifier import (
    DIGITS,
    ChangedClassifier,
    batches,
    checked_accuracy,
    open_classifier,
    read_samples,
    train,
)
from gramian.tasks.support.contract import Method, Problem, hold_out

TITLE = "Forget a class"
HEADLINE = "balance"
METRICS = {"balance": "higher", "forgotten": "lower", "retained": "higher"}
DEFAULT = "digits"

_STEPS, _LR = 400, 2e-3


@dataclass(frozen=True)
class Classifier:
    """A trained classifier with the samples it was trained on.

    Attributes:
        model: as it is; methods change a copy.
        x, y: training samples and labels.
        held_x, held_y: others, to measure on.
        forget: the class to be forgotten.
        factory: what builds the network.
        steps: of a whole training.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    forget: int
    factory: str
    steps: int = _STEPS

    def fresh(self, seed: int) -> nn.Module:
        """The network before training."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # a user's function draws from torch's own state
            return build(self.factory)

    def part(self, forget: bool) -> tuple[Tensor, Tensor]:
        """The training samples of the class to forget, or all others."""
        chosen = (self.y == self.forget) == forget
        return self.x[chosen], self.y[chosen]


def load(
    data: str, target: str | None = None, *, forget: int = 3, factory: str = "", samples: str = "", steps: int = _STEPS
) -> Problem:
    """Train the digits' network, or open the user's classifier and its samples.

    Args:
        data: ``digits``, or a file of weights.
        forget: the class, as it stands in the labels.
        factory: package.module:function or file.py:function that builds the user's network.
        samples: an .npz file with ``x`` (samples, …) and ``y`` (samples,) of whole numbers.
        steps: of the training of the digits' network, and of the baselines that train.

    Raises:
        ValueError: a class that is not there or is all there is, samples that do not fit the network.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if target is not None:
        raise ValueError(f"target={target!r}: the labels stand in the samples' file, as y")
    if data == DEFAULT:
        found = transfer.load_digits()
        x, y, held_x, held_y = found.train, found.train_labels, found.test, found.test_labels
        model: nn.Module = transfer.mlp(0)
        factory = DIGITS
        train(model, x, y, steps=steps, lr=_LR, seed=0)
        name = "digits"
    else:
        if not samples:
            raise ValueError("a classifier of yours needs --set factory=FILE.py:FUNCTION and --set samples=FILE.npz")
        model, name = open_classifier(data, factory)
        x, y = read_samples(Path(samples))
        known, new = hold_out(y.numpy(), 0.25)
        x, y, held_x, held_y = x[known], y[known], x[new], y[new]
    present = sorted(set(y.tolist()))
    if forget not in present:
        raise ValueError(f"forget={forget} is not among the labels {', '.join(map(str, present[:20]))}")
    if len(present) == 1:
        raise ValueError(f"forget={forget} is the whole data: nothing would be left")
    subject = Classifier(model.eval(), x, y, held_x, held_y, forget, factory, steps)
    checked_accuracy(model, held_x, held_y)
    before = _figures(model, subject)
    facts = {
        "samples": len(y),
        "of them to forget": int((y == forget).sum()),
        **{f"{k} before": v for k, v in before.items()},
    }
    note = f"Class {forget} is to be forgotten; accuracies are of a quarter of the samples that is held out."
    if data == DEFAULT:
        note = f"Class {forget} is to be forgotten; accuracies are of a fifth of the digits that is held out."
    return Problem(name, subject, None, subject, None, note, facts)


def _figures(model: nn.Module, subject: Classifier) -> dict[str, float]:
    own = subject.held_y == subject.forget
    if not bool(own.any()) or bool(own.all()):
        raise ValueError(
            f"the held-out part has {int(own.sum())} of {len(own)} samples of the class: give more samples"
        )
    forgotten = transfer.accuracy(model, subject.held_x[own], subject.held_y[own])
    retained = transfer.accuracy(model, subject.held_x[~own], subject.held_y[~own])
    return {"balance": retained - forgotten, "forgotten": forgotten, "retained": retained}


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], ChangedClassifier]:
    """Let a copy of the network forget, and measure both parts on held-out samples."""
    subject: Classifier = problem.train
    started = time.perf_counter()
    model = method.build(run.seed)(copy.deepcopy(subject.model), subject)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    figures = _figures(model, subject)
    return {"fit_s": fit_s, "predict_s": time.perf_counter() - started, **figures}, ChangedClassifier(
        model, subject.factory
    )


def predict(model: ChangedClassifier, problem: Problem) -> pandas.DataFrame:
    """A row a held-out sample: label, prediction, and whether it is of the class that was forgotten."""
    subject: Classifier = problem.train
    with torch.no_grad():
        said = model.model(subject.held_x).argmax(-1)
    return pandas.DataFrame(
        {"label": subject.held_y, "predicted": said, "to forget": (subject.held_y == subject.forget).numpy()}
    )


def _dampen(source: str, alpha: Any, quantile: float) -> Any:
    def forget(model: nn.Module, subject: Classifier) -> nn.Module:
        generator = {"generator": torch.Generator().manual_seed(0)} if source == "mc" else {}
        full = unlearn.total_fisher(model, batches(subject.x, subject.y), source=source, **generator)
        part = unlearn.total_fisher(model, batches(*subject.part(forget=True)), source=source, **generator)
        unlearn.ssd(model, part, full, alpha, 1.0, quantile=quantile)
        return model

    return lambda seed: forget


def _retrain(seed: int) -> Any:
    return lambda model, subject: train(
        subject.fresh(seed), *subject.part(forget=False), seed=seed, steps=subject.steps, lr=_LR
    )


def _finetune(seed: int) -> Any:
    return lambda model, subject: train(
        model, *subject.part(forget=False), seed=seed, steps=max(1, subject.steps // 4), lr=_LR / 2
    )


METHODS = {
    "ssd": Method(
        _dampen("true", "auto", 0.96),
        "dampen the 4% of weights that matter most to the class (true Fisher)",
        "ssd_unlearning",
    ),
    "ssd-paper": Method(
        _dampen("empirical", 3.0, 0.95), "the same by the empirical Fisher and a fixed threshold of 3", "ssd_unlearning"
    ),
}
BASELINES = {
    "retrain": Method(_retrain, "train a new network on the other classes alone"),
    "finetune": Method(_finetune, "train on with the other classes alone, a quarter as long"),
    "nothing": Method(lambda seed: lambda model, subject: model, "the network as it is"),
}
