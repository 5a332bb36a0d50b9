"""The contract of a task: a problem with a fixed split, methods of ours, ordinary baselines, one way to measure.

A task's file holds ``TITLE``, ``HEADLINE`` and ``METRICS`` (which figure leads, and which way each is
better), ``DEFAULT`` (a named data set), ``load(data, target) -> Problem``, ``METHODS`` and
``BASELINES`` (name -> `Method`), ``evaluate(method, problem, run) -> {metric: value}`` and
``predict(model, problem) -> DataFrame``. It may hold ``draw(models, problem) -> Figure``, a picture of what the fitted
models, by name and best first, make of the test part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
import pandas


@dataclass(frozen=True)
class Method:
    """A way to do the task.

    Args:
        build: makes the unfitted estimator from a seed; imports what it needs.
        summary: what it is, in one line.
        paper: the slug of the paper behind it; None for a baseline.
        needs: extras that it needs.
    """

    build: Callable[[int], Any]
    summary: str
    paper: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Data with the split that every method sees, fixed before any of them runs.

    Attributes:
        train, test: inputs, as the task's estimators take them.
        train_labels, test_labels: what is to be predicted; None in `test_labels` where nobody knows.
        note: how the split was made, in words.
    """

    name: str
    train: Any
    train_labels: Any
    test: Any
    test_labels: Any
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def name_of(method: Method, known: Mapping[str, Method]) -> str:
    """The name that a method goes by, for what is saved."""
    return next(name for name, entry in known.items() if entry is method)


def fit_timed(model: Any, inputs: Any, labels: Any) -> float:
    """Fit in place; returns the seconds."""
    start = time.perf_counter()
    model.fit(inputs, labels)
    return time.perf_counter() - start


def count_parameters(model: Any) -> int:
    """How many numbers a fitted model holds: its arrays and tensors, each counted once, wherever they hang.

    For a nearest-neighbour method that is its whole training set: it has to be kept.
    """
    total, todo, seen = 0, [model], set()
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type(None), type)):
            continue
        seen.add(id(item))
        if isinstance(item, numpy.ndarray) and item.dtype != object:
            total += item.size
        elif hasattr(item, "numel") and hasattr(item, "stride"):
            total += item.numel()
        elif isinstance(item, dict):
            todo += list(item.values())
        elif isinstance(item, (list, tuple, set)):
            todo += list(item)
        elif hasattr(item, "state_dict") and hasattr(item, "parameters"):
            todo += [*item.parameters(), *item.buffers()]
        elif type(item).__module__.split(".")[0] in ("gramian", "sklearn", "aeon"):
            # compiled classes have no __dict__
            state = vars(item) if hasattr(item, "__dict__") else item.__getstate__()
            todo += list(state.values()) if isinstance(state, dict) else [state]
    return total


def hold_out(labels: Any, fraction: float, seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Row numbers of a stratified split of labels into a training and a held-out part."""
    from sklearn.model_selection import train_test_split

    rows = numpy.arange(len(labels))
    counts = pandas.Series(labels).value_counts()
    stratify = labels if counts.min() >= 2 else None
    train, test = train_test_split(rows, test_size=fraction, random_state=seed, stratify=stratify)
    return numpy.sort(train), numpy.sort(test)
