"""Merge models that were trained apart from one base: one network that does what each of them does.

``--data A,B`` are two or more trained networks. Language models: Hugging Face folders, with ``--set base=FOLDER`` and
``--set text=A.txt,B.txt``, the text that each was trained for. Classifiers: files of weights, with ``--set base=FILE``,
``--set factory=FILE.py:FUNCTION`` and ``--set samples=A.npz,B.npz`` (``x`` and ``y``). ``digits`` trains two networks
on five digits each, ``smollm2-135m`` two language models on two halves of the bundled text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas
import torch
from torch import Tensor

from gramian.lab import Run
from gramian.surgery.merge import arithmetic, concrete, fisher
from gramian.tasks.support import merge_inputs
from gramian.tasks.support.classifier import ChangedClassifier
from gramian.tasks.support.contract import Method, Problem
from gramian.tasks.support.merge_inputs import Parts
from gramian.tasks.support.model_change import ChangedModel

TITLE = "Merge models"
HEADLINE = "mean"
METRICS = {"mean": "higher", "worst": "higher"}
DEFAULT = "digits"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class MergeProblem(Problem):
    """A problem whose figure is an accuracy or a perplexity."""

    headline: str = ""
    metrics: dict[str, str] | None = None


def load(
    data: str,
    target: str | None = None,
    *,
    base: str = "",
    text: str = "",
    factory: str = "",
    samples: str = "",
    steps: int = 0,
    tries: int = 6,
) -> MergeProblem:
    """Open the networks, or train the bundled ones, and check that they can be merged.

    Args:
        data: the networks, separated by commas; ``digits``, or ``smollm2-135m``.
        base: the network that they were trained from.
        text: for language models: one text file for each.
        factory: for files of weights: package.module:function or file.py:function that builds the network.
        samples: for files of weights: one .npz file for each, with ``x`` and ``y``.
        steps: of the training of the bundled ones; 0 takes 400 for digits and 12 for the language model.
        tries: how many weights or scales each method tries on samples that it is not measured on.

    Raises:
        ValueError: fewer than two networks, another number of texts or samples, networks of different shapes or
            tokenizers, or an option out of range.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: a model has no columns")
    if steps < 0 or tries < 2:
        raise ValueError(f"steps={steps}, tries={tries}: steps is not negative, and at least 2 weights are tried")
    if data == DEFAULT:
        parts = merge_inputs.digits(steps or 400, tries)
    elif "," not in data and data.replace("-", "_") == "smollm2_135m":
        parts = merge_inputs.language_halves(data, steps or 12, tries)
    elif factory:
        parts = merge_inputs.classifiers(_names(data, "data"), base, factory, _names(samples, "samples"), tries)
    else:
        parts = merge_inputs.language_models(_names(data, "data"), base, _names(text, "text"), tries)
    arithmetic.task_vectors(parts.base, parts.experts)  # refuses networks of other names or shapes
    better = "higher" if parts.kind == "classifier" else "lower"
    what = "accuracy" if parts.kind == "classifier" else "perplexity"
    facts: dict[str, Any] = {"networks": len(parts.experts), "measured": what}
    facts |= {f"{n} on its own part": parts.figures(e)[n] for n, e in zip(parts.names, parts.experts, strict=True)}
    facts["base"] = parts.figures(parts.base)["mean"]
    mean = "mean" if better == "higher" else "geometric mean"
    note = (
        f"{parts.note} Each method chooses among {parts.tries} weights or scales on samples that it is not measured "
        f"on; the figures are the {what} on each network's own part, their {mean} and the worst."
    )
    metrics = dict.fromkeys(("mean", "worst", *parts.names), better)
    return MergeProblem(parts.title, parts, None, parts, None, note, facts, "mean", metrics)


def _names(given: str, option: str) -> list[str]:
    found = [n.strip() for n in given.split(",") if n.strip()]
    if len(found) < 2:
        raise ValueError(f"{option}={given!r}: give one for each network, two or more, separated by commas")
    return found


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], ChangedModel | ChangedClassifier]:
    """Merge, and measure the merged network on every part."""
    parts: Parts = problem.train
    started = time.perf_counter()
    state = method.build(run.seed)(parts)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    figures = parts.figures(state)
    return {"fit_s": fit_s, "predict_s": time.perf_counter() - started, **figures}, parts.saved(state)


def predict(model: ChangedModel | ChangedClassifier, problem: Problem) -> pandas.DataFrame:
    """One row a part: the network that was trained for it, and the merged network's figure."""
    parts: Parts = problem.train
    network = model.model if isinstance(model, ChangedClassifier) else model.opened.model
    figures = parts.figures(network.state_dict())
    return pandas.DataFrame([{"part": n, parts.what: figures[n]} for n in parts.names])


def _grid(parts: Parts, low: float, high: float) -> list[float]:
    return [low + (high - low) * i / (parts.tries - 1) for i in range(parts.tries)]


def _best(parts: Parts, combine: Callable[[float], Any], scales: Sequence[float]) -> float:
    return max(scales, key=lambda scale: parts.score(combine(scale)))


def _weighted(how: Callable[[Parts], Callable[[Sequence[float]], State]]) -> Any:
    """Weights of a grid on the simplex, chosen on validation samples."""

    def merge(parts: Parts) -> State:
        combine = how(parts)
        if len(parts.experts) > 2:  # a grid over more than two grows too fast: all networks alike
            return combine([1.0] * len(parts.experts))
        weights, _, _ = fisher.search_weights(combine, parts.score, 2, parts.tries)
        return combine(weights)

    return lambda seed: merge


def _fisher(parts: Parts) -> Callable[[Sequence[float]], State]:
    matrices = parts.fishers()
    return lambda w: fisher.fisher_merge(  # type: ignore[return-value]
        parts.experts, matrices, w, normalize=True, buffers="mean"
    )


def _average(parts: Parts) -> Callable[[Sequence[float]], State]:
    return lambda w: fisher.isotropic_merge(parts.experts, w)  # type: ignore[return-value]


def _scaled(rule: Callable[..., Any], low: float, high: float) -> Any:
    def merge(parts: Parts) -> State:
        combine = partial(rule, parts.base, parts.experts)
        return combine(_best(parts, combine, _grid(parts, low, high)))

    return lambda seed: merge


def _concrete(seed: int) -> Any:
    def merge(parts: Parts) -> State:
        if parts.kind != "classifier":
            raise ValueError("it learns from how certain a classifier is of its classes: not for language models")
        scale = _best(parts, partial(arithmetic.task_arithmetic, parts.base, parts.experts), _grid(parts, 0.2, 1.2))
        made = concrete.concrete_merge(
            parts.network(parts.base), parts.experts, [x for x, _ in parts.known], scale=scale, steps=100, lr=1e-2,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return made.state

    return merge


METHODS = {
    "fisher": Method(_weighted(_fisher), "each weight goes where the network that needs it wants it", "fisher_merging"),
    "concrete": Method(
        _concrete, "task vectors under a mask that is learned from unlabelled samples", "concrete_fusion"
    ),
}
BASELINES = {
    "average": Method(_weighted(_average), "the weighted average of the networks"),
    "task-arithmetic": Method(_scaled(arithmetic.task_arithmetic, 0.2, 1.2), "the base plus all task vectors, scaled"),
    "ties": Method(_scaled(arithmetic.ties, 0.4, 2.4), "the same, trimmed to a fifth, by a vote on the signs"),
    "first": Method(lambda seed: lambda parts: parts.experts[0], "the first network alone"),
    "base": Method(lambda seed: lambda parts: parts.base, "the network before"),
}
