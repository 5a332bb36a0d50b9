"""What the merging task is given: networks trained apart from one base, and the part of the data that each is for."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.analysis.fisher.likelihood import IGNORED
from gramian.analysis.perplexity import negative_log_likelihood
from gramian.models.example_inputs import read_text, token_ids
from gramian.models.opening import Opened, open_model
from gramian.optim.fit import fit
from gramian.surgery.adapters import transfer
from gramian.tasks.support import classifier
from gramian.tasks.support.contract import hold_out
from gramian.tasks.support.model_change import ChangedModel, next_token

State = Mapping[str, Tensor]
_WINDOW = 128


@dataclass
class Parts:
    """Networks to merge. A part is ``(x, y)`` for a classifier and ``(windows, tokens)`` for a language model.

    Attributes:
        opened: the network that holds each merged state in turn.
        base, experts: states; names: of the experts.
        known: for each expert what a method may read; new: what it is measured on.
        tries: how many weights or scales a method may try.
    """

    kind: Literal["classifier", "language"]
    title: str
    note: str
    opened: Opened
    base: State
    experts: list[State]
    names: list[str]
    known: list[tuple[Tensor, Tensor]]
    new: list[tuple[Tensor, Tensor]]
    tries: int
    factory: str = ""
    _fishers: list[State] | None = field(default=None, repr=False)

    @property
    def what(self) -> str:
        return "accuracy" if self.kind == "classifier" else "perplexity"

    def network(self, state: State) -> nn.Module:
        """The one network, holding `state`."""
        self.opened.model.load_state_dict(dict(state))
        return self.opened.model.eval()

    def _losses(self, state: State, parts: list[tuple[Tensor, Tensor]]) -> list[float]:
        """For each part the error rate, or the mean negative log-likelihood of a token."""
        model = self.network(state)
        if self.kind == "classifier":
            return [1 - transfer.accuracy(model, x, y) for x, y in parts]
        return [
            sum(negative_log_likelihood(model, w) * (len(w) - 1) for w in windows) / sum(len(w) - 1 for w in windows)
            for windows, _ in parts
        ]

    def figures(self, state: State) -> dict[str, float]:
        """Accuracies with their mean, or perplexities with their geometric mean; the worst; and each part's own."""
        losses = self._losses(state, self.new)
        mean, worst = sum(losses) / len(losses), max(losses)
        made = (lambda v: 1 - v) if self.kind == "classifier" else (lambda v: math.exp(min(v, 700.0)))
        return {
            "mean": made(mean),
            "worst": made(worst),
            **{n: made(v) for n, v in zip(self.names, losses, strict=True)},
        }

    def score(self, state: State) -> float:
        """Higher is better: what a method may choose its weights by, on the known samples."""
        losses = self._losses(state, self.known)
        return -sum(losses) / len(losses)

    def fishers(self) -> list[State]:
        """For each expert the diagonal of its Fisher matrix on its own known samples; computed once."""
        if self._fishers is None:
            self._fishers = [self._fisher(e, k) for e, k in zip(self.experts, self.known, strict=True)]
        return self._fishers

    def _fisher(self, state: State, known: tuple[Tensor, Tensor]) -> State:
        model = self.network(state)
        if self.kind == "classifier":
            accumulator = FisherAccumulator(model, source="true")
            for x in known[0].split(512):
                accumulator.update(x)
        else:
            accumulator = FisherAccumulator(model, params="*layers.*.weight")
            for windows in known[0].view(-1, _WINDOW // 2).split(8):
                following = torch.nn.functional.pad(windows[:, 1:], (0, 1), value=IGNORED)
                accumulator.update(windows, following)
        return {n: v.detach() for n, v in accumulator.value().items()}

    def saved(self, state: State) -> ChangedModel | classifier.ChangedClassifier:
        """What is written: a copy of the network with the merged state."""
        model = copy.deepcopy(self.network(state))
        if self.kind == "classifier":
            return classifier.ChangedClassifier(model, self.factory)
        return ChangedModel(Opened(f"{self.opened.name}-merged", model, self.opened.reads, self.opened.tokenizer))


def _held(model: nn.Module) -> State:
    return {n: v.detach().clone() for n, v in model.state_dict().items()}


def digits(steps: int, tries: int) -> Parts:
    """One weakly trained start, and two networks that were trained on from it on five digits each."""
    found = transfer.load_digits()
    start = transfer.mlp(0)
    few = slice(200, 500)
    classifier.train(start, found.train[few], found.train_labels[few], seed=0, steps=30, lr=1e-3)
    experts, known, new, names = [], [], [], ["digits 0-4", "digits 5-9"]
    for low in (0, 5):
        mine, held = ((labels >= low) & (labels < low + 5) for labels in (found.train_labels, found.test_labels))
        x, y = found.train[mine], found.train_labels[mine]
        network = copy.deepcopy(start)
        classifier.train(network, x[100:], y[100:], seed=0, steps=steps, lr=2e-3)
        experts.append(_held(network))
        known.append((x[:100], y[:100]))
        new.append((found.test[held], found.test_labels[held]))
    return Parts(
        "classifier", "digits", "Two networks, trained on five digits each.", Opened("digits", start, "unknown"),
        _held(start), experts, names, known, new, tries, classifier.DIGITS,
    )  # fmt: skip


def classifiers(files: list[str], base: str, factory: str, samples: list[str], tries: int) -> Parts:
    """A user's classifiers, each with its own samples, a quarter of them held out."""
    if not base:
        raise ValueError("--set base=FILE names the network that they were trained from")
    if len(samples) != len(files):
        raise ValueError(f"{len(files)} networks, but {len(samples)} files of samples")
    start, name = classifier.open_classifier(base, factory)
    experts, known, new = [], [], []
    for file, sample in zip(files, samples, strict=True):
        network, _ = classifier.open_classifier(file, factory)
        x, y = classifier.read_samples(Path(sample))
        first, second = hold_out(y.numpy(), 0.25)
        classifier.checked_accuracy(network, x, y)
        experts.append(_held(network))
        known.append((x[first], y[first]))
        new.append((x[second], y[second]))
    names = _unlike([Path(f).stem for f in files])
    note = f"{len(files)} classifiers; a quarter of each one's samples is held out."
    opened = Opened(name, start, "unknown")
    return Parts("classifier", name, note, opened, _held(start), experts, names, known, new, tries, factory)


def language_halves(name: str, steps: int, tries: int) -> Parts:
    """Two language models trained from a bundled one on the first and the second half of the bundled text."""
    from gramian.data import text

    opened = open_model(name)
    start = _held(opened.model)
    halves = token_ids(opened, text.descriptions()).chunk(2)
    experts, known, new = [], [], []
    for ids in halves:
        windows = ids[: len(ids) // _WINDOW * _WINDOW].view(-1, _WINDOW)
        train, choose, measure = windows[:-6], windows[-6:-3], windows[-3:]
        opened.model.load_state_dict(dict(start))
        fit(
            opened.model, [train], next_token, steps=steps, batch_size=4, lr=5e-5, clip=1.0, what="training",
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        experts.append(_held(opened.model))
        known.append((choose, choose))
        new.append((measure, measure))
    note = f"Two models, each trained for {steps} steps of four windows on half of the bundled text."
    return Parts("language", name, note, opened, start, experts, ["first half", "second half"], known, new, tries)


def language_models(folders: list[str], base: str, texts: list[str], tries: int) -> Parts:
    """A user's language models in folders, each with the text that it was trained for."""
    if not base:
        raise ValueError("--set base=FOLDER names the model that they were trained from")
    if len(texts) != len(folders):
        raise ValueError(f"{len(folders)} models, but {len(texts)} texts")
    start = open_model(base)
    experts, known, new = [], [], []
    for folder, file in zip(folders, texts, strict=True):
        opened = open_model(folder)
        for each in (start, opened):
            if each.reads != "text":
                raise ValueError(f"{each.name} is not a causal language model; files of weights need factory=")
        if opened.tokenizer.get_vocab() != start.tokenizer.get_vocab():
            raise ValueError(f"{folder} has another tokenizer than {base}: their tokens do not mean the same")
        ids = token_ids(opened, read_text(Path(file)))
        windows = ids[: len(ids) // _WINDOW * _WINDOW].view(-1, _WINDOW)
        if len(windows) < 2:
            raise ValueError(f"{file} has {len(ids)} tokens; at least {2 * _WINDOW} are needed")
        windows, half = windows[:16], min(8, len(windows) // 2)
        experts.append(_held(opened.model))
        known.append((windows[:half], windows[:half]))
        new.append((windows[half:], windows[half:]))
    names = _unlike([Path(f).name for f in folders])
    note = f"{len(folders)} language models; half of each one's text, at most eight windows, is measured on."
    return Parts("language", start.name, note, start, _held(start.model), experts, names, known, new, tries)


def _unlike(names: list[str]) -> list[str]:
    """Names that differ: numbered where they do not, or would be mistaken for another figure."""
    taken = len(set(names)) < len(names) or {"mean", "worst"} & set(names)
    return [f"{i + 1} {n}" for i, n in enumerate(names)] if taken else names
