"""Adapt a classifier to data unlike its training data, while it predicts, and without labels.

``digits`` is a small network with batch norms that meets pale and noisy digits; ``efficientnet-lite0`` meets noisy
crops of bundled photographs, its own answers on the clean ones being the truth. A classifier of yours:
``--data net.safetensors --set factory=net.py:make --set samples=stream.npz --set known=training.npz``, the stream's
``x`` and ``y`` (labels are only measured with) and samples like those of its training.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.lab import Run
from gramian.models.example_inputs import example_inputs
from gramian.models.opening import open_model
from gramian.surgery import adapt_online
from gramian.surgery.adapters import transfer
from gramian.tasks.support import classifier
from gramian.tasks.support.contract import Method, Problem

TITLE = "Adapt a classifier at test time"
HEADLINE = "accuracy"
METRICS = {"accuracy": "higher", "known": "higher", "gradients": "lower"}
DEFAULT = "digits"

_DIGITS = "gramian.tasks.support.classifier:normalized_digits_network"


@dataclass(frozen=True)
class Stream:
    """A classifier, and what it meets.

    Attributes:
        model: as it was trained; methods change a copy.
        source: what it can be opened with again: a factory, or a bundled name.
        x, y: the stream and its labels; known_x, known_y: data like its training data.
        batch, passes, lr: how it is met, and how far each step goes.
        margin: the largest cosine with the mean prediction that still counts as new.
    """

    model: nn.Module
    source: str
    x: Tensor
    y: Tensor
    known_x: Tensor
    known_y: Tensor
    batch: int
    passes: int
    lr: float
    margin: float


def load(
    data: str,
    target: str | None = None,
    *,
    factory: str = "",
    samples: str = "",
    known: str = "",
    batch: int = 0,
    passes: int = 4,
    lr: float = 2e-2,
    noise: float = 0.25,
) -> Problem:
    """Open the classifier and the stream that it meets.

    Args:
        data: ``digits``, ``efficientnet-lite0``, or a file of weights.
        factory: package.module:function or file.py:function that builds your network.
        samples: an .npz file of the stream, ``x`` and ``y``.
        known: the same of data like those that it was trained on: what it must not forget.
        batch: samples at a time; 0 takes 60, or 16 pictures.
        passes: how often the stream is met; the predictions of the last pass count.
        lr: of the steps on the norm layers' scales and shifts.
        noise: standard deviation of the noise on the bundled data, black being 0 and white 1.

    Raises:
        ValueError: a network without norm layers, samples that do not fit it, or an option out of range.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: the labels stand in the samples' file, as y")
    if passes < 1 or lr <= 0 or noise < 0 or batch < 0 or batch == 1:
        raise ValueError(
            f"batch={batch}, passes={passes}, lr={lr}, noise={noise}: batches of at least 2, one pass or more, a "
            "positive learning rate and noise that is not negative are needed"
        )
    if data == DEFAULT:
        found = _digits(noise)
    elif data.replace("-", "_") == "efficientnet_lite0":
        found = _photographs(data, noise)
    else:
        found = _users(data, factory, samples, known)
    model, source, x, y, known_x, known_y, note = found
    adapt_online.affine_parameters(model)
    classes = model(known_x[:2]).shape[-1]
    size = batch or (16 if x.ndim == 4 else 60)
    if len(x) % size == 1:
        raise ValueError(f"{len(x)} samples in batches of {size} leave a last one of 1: choose another batch")
    stream = Stream(model, source, x, y, known_x, known_y, size, passes, lr, 0.4 if classes <= 100 else 0.05)
    facts: dict[str, Any] = {
        "samples": len(x), "classes": classes, "batch": size, "passes": passes,
        "accuracy before": _accuracy(model, x, y), "on known data": _accuracy(model, known_x, known_y),
    }  # fmt: skip
    return Problem(Path(data).stem, stream, None, stream, None, note, facts)


def _digits(noise: float) -> tuple[Any, ...]:
    found = transfer.load_digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = classifier.normalized_digits_network()
    classifier.train(model, found.train, found.train_labels, seed=0, steps=150, lr=2e-3)
    low, high = found.test.min(), found.test.max()
    grain = torch.randn(found.test.shape, generator=torch.Generator().manual_seed(0))
    seen = 0.6 * (found.test - low) / (high - low) + 0.3 + noise * grain
    note = "A fifth of the digits, made paler and noisy; the network was trained on clean ones."
    return model, _DIGITS, seen * (high - low) + low, found.test_labels, found.test, found.test_labels, note


def _photographs(name: str, noise: float, crops: int = 8, size: int = 128) -> tuple[Any, ...]:
    opened = open_model(name)
    pictures = torch.cat([b["x"] for b in example_inputs(opened).batches])
    generator = torch.Generator().manual_seed(0)
    clean = []
    for picture in pictures:
        for _ in range(crops):
            top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in picture.shape[1:])
            clean.append(picture[:, top : top + size, left : left + size])
    order = torch.randperm(len(clean), generator=generator)
    x = torch.stack(clean)[order]
    with torch.no_grad():
        y = torch.cat([opened.model(b).argmax(-1) for b in x.split(32)])
    grain = 2 * noise * torch.randn(x.shape, generator=generator)  # the network's inputs run from -1 to 1
    note = f"{len(x)} noisy crops of {len(pictures)} photographs; right is what the network says of the clean ones."
    return opened.model, name, x + grain, y, x, y, note


def _users(data: str, factory: str, samples: str, known: str) -> tuple[Any, ...]:
    if not samples or not known:
        raise ValueError("a classifier of yours needs --set samples=STREAM.npz and --set known=TRAINING.npz")
    model, _ = classifier.open_classifier(data, factory)
    x, y = classifier.read_samples(Path(samples))
    known_x, known_y = classifier.read_samples(Path(known))
    for each in ((x, y), (known_x, known_y)):
        classifier.checked_accuracy(model, *each)
    return model, factory, x, y, known_x, known_y, "Labels of the stream are only measured with."


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return sum(transfer.accuracy(model, a, b) * len(a) for a, b in classifier.batches(x, y, 128)) / len(x)


class AdaptedClassifier:
    """A classifier after a stream; saved as the norm layers' scales and shifts, and all else that it was."""

    def __init__(self, model: nn.Module, source: str, statistics: bool) -> None:
        self.model, self.source, self.statistics = model, source, statistics

    def logits(self, x: Tensor) -> Tensor:
        """As the method predicts: by the batch's own statistics, or by those of the training."""
        if self.statistics:
            return adapt_online.BNAdapt(self.model).step(x)
        with torch.no_grad():
            return self.model.eval()(x)

    def save(self, path: Path) -> None:
        """Write the network's tensors with what builds it in the file's own header."""
        tensors = {n: v.contiguous() for n, v in self.model.state_dict().items()}
        save_file(tensors, path, metadata={"source": self.source, "statistics": str(int(self.statistics))})

    @classmethod
    def load(cls, path: Path) -> AdaptedClassifier:
        """The classifier that was written to `path`."""
        from safetensors import safe_open

        from gramian.models.opening import build

        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        model = build(said["source"]) if ":" in said["source"] else open_model(said["source"]).model
        model.load_state_dict(load_file(path))
        return cls(model.eval(), said["source"], said["statistics"] == "1")


Adapter = Callable[[nn.Module, Stream], "adapt_online.BNAdapt | None"]


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], AdaptedClassifier]:
    """Let a copy of the classifier meet the stream; measure its predictions, then what is left of the known data."""
    stream: Stream = problem.train
    model = copy.deepcopy(stream.model)
    started = time.perf_counter()
    adapter = method.build(run.seed)(model, stream)
    fit_s = time.perf_counter() - started
    statistics = adapter is not None and adapter.has_batch_norm
    adapted = AdaptedClassifier(model, stream.source, statistics)
    started = time.perf_counter()
    right = 0
    for _ in run.progress(range(stream.passes), "meeting the stream"):
        right = 0
        for x, y in classifier.batches(stream.x, stream.y, stream.batch):
            logits = adapted.logits(x) if adapter is None else adapter.step(x)
            right += int((logits.argmax(-1) == y).sum())
    seconds = time.perf_counter() - started
    figures = {
        "accuracy": right / len(stream.x),
        "known": _accuracy(model, stream.known_x, stream.known_y),
        "gradients": float(getattr(adapter, "backward_samples", 0)),
    }
    return {"fit_s": fit_s, "predict_s": seconds, **figures}, adapted


def predict(model: AdaptedClassifier, problem: Problem) -> pandas.DataFrame:
    """One row a sample of the stream: its label and what the adapted classifier says, without further steps."""
    stream: Stream = problem.train
    said = torch.cat([model.logits(x).argmax(-1) for x in stream.x.split(stream.batch)])
    return pandas.DataFrame({"label": stream.y, "predicted": said})


def _method(adapter: Adapter, summary: str, paper: str | None = None) -> Method:
    return Method(lambda seed: adapter, summary, paper)


def _eata(anchor: float) -> Adapter:
    def attach(model: nn.Module, stream: Stream) -> adapt_online.BNAdapt:
        fisher = adapt_online.pseudo_label_fisher(model, stream.known_x[:512].split(64)) if anchor else None
        return adapt_online.EATA(model, fisher, eps=stream.margin, beta=anchor, lr=stream.lr)

    return attach


METHODS = {
    "eata": _method(_eata(2000.0), "steps on certain and new samples, held by the Fisher matrix", "eata"),
    "eta": _method(_eata(0.0), "the same without the Fisher matrix", "eata"),
}
BASELINES = {
    "nothing": _method(lambda model, stream: None, "the classifier as it is"),
    "bn": _method(lambda model, stream: adapt_online.BNAdapt(model), "the batch's own statistics in all batch norms"),
    "tent": _method(
        lambda model, stream: adapt_online.Tent(model, lr=stream.lr), "steps down the entropy of every sample"
    ),
}
