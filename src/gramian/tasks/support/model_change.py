"""What the tasks that change a trained model share: the model, the inputs it is measured on, and the files.

A task's method is given a `Subject` and changes its model in place. Quality is measured on inputs that the
method did not see: perplexity for a language model, and for encoders and classifiers how far their outputs
stay those of the model before.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian.analysis.fisher.accumulator import FisherAccumulator
from gramian.analysis.fisher.likelihood import IGNORED
from gramian.analysis.perplexity import negative_log_likelihood
from gramian.lab import Run
from gramian.models.example_inputs import example_inputs, read_text, token_ids
from gramian.models.opening import Opened, open_model
from gramian.surgery.saved import load_changed, save_changed
from gramian.tasks.support.contract import Method, Problem

_LAYERS = {"text": "*.layers.*", "sentences": "encoder.layer.*", "images": "*"}


@dataclass(frozen=True)
class Subject:
    """A model to change, with inputs to calibrate on and others to measure on.

    Attributes:
        what, factory: how it is opened; every method gets a fresh one.
        options: the task's settings.
    """

    what: str
    factory: str | None
    reads: str
    calibration: list[dict[str, Tensor]]
    evaluation: list[dict[str, Tensor]]
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Opened:
        return open_model(self.what, self.factory)

    @property
    def layers(self) -> str:
        """The pattern of the layers inside the blocks: embeddings and heads are left as they are."""
        return _LAYERS[self.reads]

    @cached_property
    def reference(self) -> list[Tensor]:
        """The outputs of the model as it was, on the evaluation inputs."""
        return outputs(self.open().model, self.reads, self.evaluation)


@dataclass(frozen=True)
class ModelProblem(Problem):
    """A problem whose figure of quality depends on what the model reads."""

    headline: str = ""
    metrics: dict[str, str] = field(default_factory=dict)


def load_subject(data: str, *, text: str = "", factory: str = "", tokens: int = 512, **options: Any) -> ModelProblem:
    """Open a model and fix the inputs that it is calibrated and measured on.

    Args:
        data: a bundled network, a Hugging Face folder, or a file of weights with its factory.
        text: a text file, for models of text; the bundled text without it.
        factory: for a file of weights.
        tokens: how many tokens to measure on, and as many others to calibrate on.
        options: kept for the task's methods.

    Raises:
        ValueError: no such model, or one whose inputs are not known.
    """
    opened = open_model(data, factory or None)
    if opened.reads == "unknown" or not opened.runs:
        raise ValueError(
            f"what {opened.name} reads is not known, so that a change cannot be measured: give a language model, a "
            "sentence encoder or one of the bundled networks"
        )
    if opened.reads == "text":
        known, new = _text_batches(opened, text, tokens)
        headline, metrics = "perplexity", {"perplexity": "lower", "agreement": "higher"}
    else:
        found = example_inputs(opened, text or None, tokens=4 * tokens)
        known, new = _halves(found.batches)
        metrics = {"cosine": "higher"} if opened.reads == "sentences" else {"cosine": "higher", "agreement": "higher"}
        headline = "cosine"
    subject = Subject(data, factory or None, opened.reads, known, new, {"text": text, **options})
    parameters = sum(p.numel() for p in opened.model.parameters())
    facts: dict[str, Any] = {
        "parameters": parameters, "bytes": sum(p.nbytes for p in opened.model.parameters()),
        **{k: v for k, v in options.items() if v != ""},
    }  # fmt: skip
    facts |= {
        f"{name} before": value for name, value in quality_before(opened.model, subject).items() if name == headline
    }
    if headline == "cosine":
        facts["cosine before"] = 1.0  # with itself
    note = "Measured on inputs that no method sees: "
    if opened.reads == "text":
        measured = sum(b["input_ids"].numel() for b in new)  # fewer than asked for where the text is short
        note += f"{measured} tokens, calibrated on as many others."
    else:
        note += "every second one."
    return ModelProblem(opened.name, subject, None, subject, None, note, facts, headline, metrics)


def linear_in_blocks(model: nn.Module, subject: Subject) -> list[str]:
    """The linear layers inside the blocks, by name.

    Raises:
        ValueError: there is none.
    """
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and fnmatchcase(n, subject.layers)]
    if not found:
        raise ValueError("the model has no linear layer inside its blocks")
    return found


def _text_batches(opened: Opened, text: str, tokens: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    if text:
        ids = token_ids(opened, read_text(Path(text)))
        if len(ids) < 128:
            raise ValueError(f"{text} has {len(ids)} tokens; at least 128 are needed to calibrate and to measure")
        tokens = min(tokens, len(ids) // 2)
        new, known = ids[:tokens], ids[-tokens:]
    else:
        from gramian.data import text as texts

        ids = token_ids(opened, texts.descriptions())
        new, known = ids[:tokens], ids[1024 : 1024 + tokens]
    return [{"input_ids": p[None]} for p in known.split(512)], [{"input_ids": p[None]} for p in new.split(512)]


def _halves(batches: list[dict[str, Tensor]]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Every second sample of every batch."""
    known = [{k: v[0::2] for k, v in b.items()} for b in batches]
    new = [{k: v[1::2] for k, v in b.items()} for b in batches]
    kept = [b for b in new if len(next(iter(b.values())))]
    if not kept:
        raise ValueError("at least two inputs are needed: one to calibrate on, one to measure on")
    return known, kept


def outputs(model: nn.Module, reads: str, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """What is compared: logits of a language model or classifier, embeddings (the tokens' mean) of an encoder."""
    found = []
    with torch.no_grad():
        for batch in batches:
            y = model(**batch)
            if reads == "sentences":
                mask = batch["attention_mask"].unsqueeze(-1)
                y = (y.last_hidden_state * mask).sum(1) / mask.sum(1)
            found.append(y if isinstance(y, Tensor) else y.logits)
    return found


def quality_before(model: nn.Module, subject: Subject) -> dict[str, float]:
    """What can be said of a model without the one before: the perplexity, of a language model."""
    if subject.reads == "text":
        batches = [b["input_ids"][0] for b in subject.evaluation]
        nats = [negative_log_likelihood(model, ids) * (len(ids) - 1) for ids in batches]
        mean = sum(nats) / sum(len(ids) - 1 for ids in batches)
        return {"perplexity": math.exp(mean) if mean < 700 else math.inf}
    return {}


def quality(model: nn.Module, subject: Subject) -> dict[str, float]:
    """The figures of quality of a changed model."""
    figures = quality_before(model, subject)
    now = outputs(model, subject.reads, subject.evaluation)
    if subject.reads != "text":
        pairs = [F.cosine_similarity(a, b, dim=-1) for a, b in zip(now, subject.reference, strict=True)]
        figures["cosine"] = float(torch.cat(pairs).mean())
    if subject.reads != "sentences":
        same = [(a.argmax(-1) == b.argmax(-1)).double().flatten() for a, b in zip(now, subject.reference, strict=True)]
        figures["agreement"] = float(torch.cat(same).mean())
    return figures


class ChangedModel:
    """A changed model: what `gramian apply` saves, and loads again."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def save(self, path: Path) -> None:
        """Write the model's folder around `path` (its weights' file)."""
        save_changed(self.opened, Path(path).parent)

    @classmethod
    def load(cls, path: Path) -> ChangedModel:
        return cls(load_changed(Path(path).parent))


Change = Callable[[Opened, Subject, int], Any]
"""(model, subject, seed): changes the model in place."""


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], ChangedModel]:
    """Change a fresh copy of the model and measure it: quality, the seconds that the change and a pass take."""
    subject: Subject = problem.train
    opened = subject.open()
    started = time.perf_counter()
    replaced = method.build(run.seed)(opened, subject)
    fit_s = time.perf_counter() - started
    if isinstance(replaced, Opened):
        opened = replaced
    opened.model.eval()
    figures = quality(opened.model, subject)
    started = time.perf_counter()
    outputs(opened.model, subject.reads, subject.evaluation)
    return {"fit_s": fit_s, "predict_s": time.perf_counter() - started, **figures}, ChangedModel(opened)


def changing(change: Change) -> Callable[[int], Callable[[Opened, Subject], Any]]:
    """A `Method.build` out of a function (model, subject, seed)."""
    return lambda seed: lambda opened, subject: change(opened, subject, seed)


def predict(model: ChangedModel, problem: Problem) -> pandas.DataFrame:
    """One row an evaluation input: the figures of the changed model on it."""
    subject: Subject = problem.train
    rows = []
    for i, batch in enumerate(subject.evaluation):
        one = dataclasses.replace(subject, evaluation=[batch])
        rows.append({"input": i, "samples": len(next(iter(batch.values()))), **quality(model.opened.model, one)})
    return pandas.DataFrame(rows)


def fisher_of(
    opened: Opened, subject: Subject, patterns: str | tuple[str, ...], kind: Literal["diag", "window"] = "diag",
    piece: int = 64,
) -> FisherAccumulator:  # fmt: skip
    """The Fisher matrix of the matching weights on the calibration inputs: its diagonal, or a window of gradients.

    A language model's is the empirical one over pieces of `piece` tokens; a classifier's has labels drawn from its own
    prediction; an encoder's takes each sentence's match with itself among the batch as its label.
    """
    model = opened.model
    params = f"{patterns}weight" if isinstance(patterns, str) and patterns.endswith("*") else patterns
    if subject.reads == "text":
        ids = torch.cat([b["input_ids"][0] for b in subject.calibration])
        size = min(piece, len(ids))
        pieces = ids[: len(ids) // size * size].view(-1, size)
        following = F.pad(pieces[:, 1:], (0, 1), value=IGNORED)
        fisher = FisherAccumulator(model, kind, params=params)
        for x, y in zip(pieces.split(8), following.split(8), strict=True):
            fisher.update(x, y)
    elif subject.reads == "images":
        fisher = FisherAccumulator(model, kind, "mc", params=params, generator=torch.Generator().manual_seed(0))
        for batch in subject.calibration:
            fisher.update(batch["x"])
    else:
        fisher = FisherAccumulator(model, kind, params=params, loss=_match, forward=_embedded)
        with torch.no_grad():
            anchors = [F.normalize(_embedded(model, b), dim=-1) for b in subject.calibration]
        for batch, anchor in zip(subject.calibration, anchors, strict=True):
            fisher.update(batch, anchor.unsqueeze(0).expand(len(anchor), -1, -1))
    return fisher


def next_token(model: nn.Module, ids: Tensor) -> Tensor:
    """The mean cross-entropy of each next token, of windows of token numbers."""
    output = model(ids)
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def _embedded(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    mask = batch["attention_mask"].unsqueeze(-1)
    return (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


def _match(embeddings: Tensor, anchors: Tensor) -> Tensor:
    """Cross-entropy of each sentence against all anchors of its batch, its own being right; temperature 0.05."""
    own = torch.arange(len(embeddings), device=embeddings.device)
    logits = torch.einsum("nd,nkd->nk", F.normalize(embeddings, dim=-1), anchors) / 0.05
    return F.cross_entropy(logits, own, reduction="none")
