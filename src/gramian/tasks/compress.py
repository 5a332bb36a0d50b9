"""Compress a model: which matrices can be kept as two thin factors, and at what loss?

The data are a model: a bundled network (smollm2-135m, all-minilm-l6-v2), or a Hugging Face folder of yours.
``--set share=0.8`` is the share of the blocks' weights to keep, ``--set text=FILE`` a text of yours to
measure on.
"""

from __future__ import annotations

from typing import Any

from gramian.models.opening import Opened
from gramian.surgery import factorize, welore
from gramian.tasks.support.contract import Method
from gramian.tasks.support.model_change import (
    ModelProblem,
    Subject,
    changing,
    evaluate,
    fisher_of,
    linear_in_blocks,
    load_subject,
    predict,
)

__all__ = ["BASELINES", "COST", "DEFAULT", "HEADLINE", "METHODS", "METRICS", "TITLE", "evaluate", "load", "predict"]

TITLE = "Compress a model"
HEADLINE = "cosine"
METRICS = {"cosine": "higher"}
DEFAULT = "all-minilm-l6-v2"
COST = "bytes"


def load(
    data: str, target: str | None = None, *, share: float = 0.8, text: str = "", factory: str = ""
) -> ModelProblem:
    """Open the model.

    Args:
        data: the model.
        share: of the weights inside the blocks to keep.
        text: a text file to calibrate and measure on; the bundled text without it.
        factory: for a file of weights: package.module:function that builds the network.

    Raises:
        ValueError: a share outside (0, 1), a target, or no such model.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: a model has no columns")
    if not 0 < share < 1:
        raise ValueError(f"share={share} of the weights is not between 0 and 1")
    return load_subject(data, text=text, factory=factory, share=share)


def _fwsvd(opened: Opened, subject: Subject, seed: int) -> None:
    fisher = {n: v.detach() for n, v in fisher_of(opened, subject, subject.layers).value().items()}
    linear = linear_in_blocks(opened.model, subject)
    ranks = factorize.spread_ranks(opened.model, subject.options["share"], linear, fisher=fisher)
    factorize.fwsvd(opened.model, fisher, list(ranks), ranks=ranks)


def _svd_spread(opened: Opened, subject: Subject, seed: int) -> None:
    linear = linear_in_blocks(opened.model, subject)
    ranks = factorize.spread_ranks(opened.model, subject.options["share"], linear)
    factorize.factorize(opened.model, list(ranks), ranks=ranks)


def _svd_uniform(opened: Opened, subject: Subject, seed: int) -> None:
    ranks = {}
    for name in linear_in_blocks(opened.model, subject):
        weight = opened.model.get_submodule(name).weight
        ranks[name] = max(1, int(subject.options["share"] * weight.numel() / sum(weight.shape)))  # type: ignore[arg-type]
    factorize.factorize(opened.model, list(ranks), ranks=ranks)


def _welore(opened: Opened, subject: Subject, seed: int) -> None:
    """The least reduction of rank that reaches the share, by bisection: WeLore's own target counts ranks."""
    linear = linear_in_blocks(opened.model, subject)
    spectra = welore.spectra_of(opened.model, linear)
    shapes = {n: tuple(opened.model.get_submodule(n).weight.shape) for n in spectra}  # type: ignore[union-attr]
    whole = sum(a * b for a, b in shapes.values())

    def kept(plan: welore.Plan) -> float:
        return sum(
            c.rank * sum(shapes[n]) if c.pays else shapes[n][0] * shapes[n][1] for n, c in plan.components.items()
        )

    low, high, best = 0.01, 0.98, None
    for _ in range(14):
        middle = (low + high) / 2
        plan = welore.plan_spectra(spectra, shapes, middle)
        if kept(plan) <= subject.options["share"] * whole:
            high, best = middle, plan
        else:
            low = middle
    if best is None:
        raise ValueError(f"share={subject.options['share']} cannot be reached by dropping ranks; ask for more")
    welore.apply_plan(opened.model, best, everything=True, freeze=False)


def _method(change: Any, summary: str, paper: str | None = None) -> Method:
    return Method(changing(change), summary, paper, needs=("language",))


METHODS = {
    "fwsvd": _method(_fwsvd, "factors weighted by the Fisher matrix, ranks shared out by it", "fwsvd"),
    "welore": _method(_welore, "one threshold on all normalized singular values, no data", "welore"),
}
BASELINES = {
    "svd": _method(_svd_uniform, "plain singular value decomposition, the same share of every matrix"),
    "svd-spread": _method(_svd_spread, "plain decomposition, ranks shared out to the least squared error"),
}
