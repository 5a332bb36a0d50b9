"""Prune a model: which weights, or which neurons of a token, can be left out, and at what loss?

The data are a model: a bundled network (smollm2-135m, all-minilm-l6-v2), or a Hugging Face folder of yours.
``--set share=0.5`` is the share of the blocks' weights to set to zero (or of the gates to close), ``--set text=FILE``
a text of yours to calibrate and measure on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gramian.lab import Run
from gramian.linalg.factor.sparse_nm import nm_mask
from gramian.models.opening import Opened
from gramian.nn.sparse.gated import SparseGatedMLP
from gramian.surgery import activation_sparsity
from gramian.surgery.prune import iterative, obs, scores
from gramian.tasks.support import model_change
from gramian.tasks.support.contract import Method, Problem
from gramian.tasks.support.model_change import (
    ChangedModel,
    ModelProblem,
    Subject,
    changing,
    fisher_of,
    linear_in_blocks,
    load_subject,
    predict,
)

__all__ = ["BASELINES", "DEFAULT", "HEADLINE", "METHODS", "METRICS", "TITLE", "evaluate", "load", "predict"]

TITLE = "Prune a model"
HEADLINE = "cosine"
METRICS = {"cosine": "higher", "skipped": "higher"}
DEFAULT = "all-minilm-l6-v2"

_PIECE = 16  # tokens of a language model's sample: as many gradients as the calibration text gives


def load(
    data: str, target: str | None = None, *, share: float = 0.5, text: str = "", factory: str = ""
) -> ModelProblem:
    """Open the model.

    Args:
        data: the model.
        share: of the weights inside the blocks to set to zero; of the gates to close.
        text: a text file to calibrate and measure on; the bundled text without it.
        factory: for a file of weights: package.module:function that builds the network.

    Raises:
        ValueError: a share outside (0, 1), a target, or no such model.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: a model has no columns")
    if not 0 < share < 1:
        raise ValueError(f"share={share} of the weights is not between 0 and 1")
    problem = load_subject(data, text=text, factory=factory, share=share)
    problem.metrics["skipped"] = "higher"
    return problem


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], ChangedModel]:
    """Prune and measure; ``skipped`` is the share of the blocks' weights that a token does not need."""
    figures, model = model_change.evaluate(method, problem, run)
    return {**figures, "skipped": skipped(model.opened.model, problem.train)}, model


def skipped(model: nn.Module, subject: Subject) -> float:
    """Zeros among the blocks' weights, and the rows and columns of closed gates in the model's last call."""
    total = gone = 0.0
    closed = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseGatedMLP):
            closed |= dict.fromkeys((f"{name}.up_proj", f"{name}.down_proj"), 1 - module.density)
    for name in linear_in_blocks(model, subject):
        weight: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        total += weight.numel()
        gone += closed[name] * weight.numel() if name in closed else float((weight == 0).sum())
    return gone / total


def _weights(opened: Opened, subject: Subject) -> list[str]:
    return [f"{name}.weight" for name in linear_in_blocks(opened.model, subject)]


def _pruned(score: Callable[[Opened, Subject, list[str]], dict[str, Tensor]], scope: str) -> Any:
    """Set the weights of the lowest scores to zero."""

    def change(opened: Opened, subject: Subject, seed: int) -> None:
        names = _weights(opened, subject)
        iterative.prune_once(opened.model, score(opened, subject, names), subject.options["share"], scope=scope)

    return change


def _magnitude(opened: Opened, subject: Subject, names: list[str]) -> dict[str, Tensor]:
    found = scores.magnitude(opened.model)
    return {n: found[n] for n in names}


def _lamp(opened: Opened, subject: Subject, names: list[str]) -> dict[str, Tensor]:
    found = scores.lamp(opened.model)
    return {n: found[n] for n in names}


def _diagonal(opened: Opened, subject: Subject, names: list[str]) -> dict[str, Tensor]:
    """Half the squared weight times the Fisher matrix's diagonal: the rise of the loss without the weight."""
    fisher = fisher_of(opened, subject, tuple(names), piece=_PIECE).value()
    weights = dict(opened.model.named_parameters())
    return {n: 0.5 * weights[n].detach().square() * fisher[n].detach() for n in names}


def _surgeon(opened: Opened, subject: Subject, seed: int) -> None:
    """Block by block: the window's inverse Fisher matrix says what goes, and how the others move."""
    blocks: dict[str, list[str]] = {}
    for name in _weights(opened, subject):
        number = re.match(r"(.*?\.\d+\.)", name)
        blocks.setdefault(f"{number.group(1)}*weight" if number else name, []).append(name)
    for pattern, names in blocks.items():
        own = tuple(obs.prunable(opened.model, pattern))
        if set(own) != set(names):
            raise ValueError(f"{pattern} holds other matrices than those of linear layers: {set(own) ^ set(names)}")
        rows = fisher_of(opened, subject, own, "window", _PIECE).value()
        # damped by a hundredth of the mean diagonal: the window sees far fewer directions than there are weights
        obs.obs_prune(
            opened.model, rows, subject.options["share"], rounds=1, damp=0.01 * float(rows.square().mean()),
            params=pattern,
        )  # fmt: skip


def _two_of_four(opened: Opened, subject: Subject, seed: int) -> None:
    for name in linear_in_blocks(opened.model, subject):
        weight: nn.Parameter = opened.model.get_submodule(name).weight  # type: ignore[assignment]
        with torch.no_grad():
            weight.mul_(nm_mask(weight.detach(), 2, 4))


def _closed(change: Any) -> Any:
    def close(opened: Opened, subject: Subject, seed: int) -> None:
        texts = [b["input_ids"][0] for b in subject.calibration]
        change(opened.model, texts, subject.options["share"])

    return close


def _method(change: Any, summary: str, paper: str | None = None) -> Method:
    return Method(changing(change), summary, paper, needs=("language",))


METHODS = {
    "obs": _method(_surgeon, "by the inverse Fisher matrix of a window of gradients, the others moved", "m_fac"),
    "chess": _method(_closed(activation_sparsity.chess), "gates closed token by token, a threshold each",
                     "chess_sparse"),
}  # fmt: skip
BASELINES = {
    "magnitude": _method(_pruned(_magnitude, "matrix"), "the smallest weights of each matrix"),
    "magnitude-global": _method(_pruned(_magnitude, "global"), "the smallest weights of all matrices together"),
    "lamp": _method(_pruned(_lamp, "global"), "the smallest, each measured against its matrix's larger ones"),
    "fisher": _method(_pruned(_diagonal, "global"), "the smallest squares times the Fisher matrix's diagonal"),
    "two-of-four": _method(_two_of_four, "the two smaller of every four, whatever the share"),
    "cats": _method(_closed(activation_sparsity.cats), "gates closed token by token, one threshold a layer"),
}
