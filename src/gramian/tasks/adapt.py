"""Adapt a language model to a text: which small part should be trained, and how small can it be?

The data are a language model: smollm2-135m, or a Hugging Face folder of yours. ``--set text=FILE`` is what it is
adapted to; the bundled technical text without it. ``--set steps=40`` and ``--set rank=8`` say how long and how wide.
What is saved is the adapter alone, LoRA's as ``peft`` reads it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gramian.lab import Run
from gramian.models.example_inputs import read_text, token_ids
from gramian.models.opening import Opened, open_model
from gramian.optim.fit import fit
from gramian.surgery.adapters import apply, eva, peft_files, svfit
from gramian.tasks.support import model_change
from gramian.tasks.support.contract import Method, Problem
from gramian.tasks.support.model_change import ModelProblem, Subject, predict

__all__ = ["BASELINES", "COST", "DEFAULT", "HEADLINE", "METHODS", "METRICS", "TITLE", "evaluate", "load", "predict"]

TITLE = "Adapt a language model"
HEADLINE = "perplexity"
METRICS = {"perplexity": "lower", "trained": "lower"}
DEFAULT = "smollm2-135m"
COST = "bytes"

_QUERIES_AND_VALUES = ("*.q_proj", "*.v_proj", "*.query", "*.value", "*.c_attn", "*.query_key_value")
_WINDOW = 128


def load(
    data: str,
    target: str | None = None,
    *,
    text: str = "",
    steps: int = 20,
    rank: int = 8,
    lr: float = 0.0,
) -> ModelProblem:
    """Open the model and cut the text: its first part is measured on, the rest is trained on.

    Args:
        data: a language model.
        text: a text file; the bundled text without it.
        steps: of training, four windows of 128 tokens each.
        rank: of the adapters; the mean one where ranks are shared out.
        lr: learning rate; 0 takes each method's own.

    Raises:
        ValueError: not a language model, a text of fewer than 384 tokens, or an option out of range.
    """
    if target is not None:
        raise ValueError(f"target={target!r}: a model has no columns")
    if steps < 1 or rank < 1 or lr < 0:
        raise ValueError(f"steps={steps}, rank={rank}, lr={lr}: steps and rank are at least 1, lr is not negative")
    found = model_change.load_subject(data, text=text, steps=steps, rank=rank, **({"lr": lr} if lr else {}))
    opened = found.train.open()
    if opened.reads != "text":
        raise ValueError(f"{found.name} is not a causal language model: this task trains it to predict a text")
    if text:
        ids = token_ids(opened, read_text(Path(text)))
    else:
        from gramian.data import text as texts

        ids = token_ids(opened, texts.descriptions())
    if len(ids) < 3 * _WINDOW:
        raise ValueError(f"the text has {len(ids)} tokens; at least {3 * _WINDOW} are needed to train and to measure")
    held_out = min(512, len(ids) // 3)
    subject = replace(
        found.train,
        calibration=[{"input_ids": p[None]} for p in ids[held_out:].split(_WINDOW) if len(p) == _WINDOW],
        evaluation=[{"input_ids": ids[:held_out][None]}],
    )
    before = model_change.quality_before(opened.model, subject)["perplexity"]
    facts = {**found.facts, "tokens to train on": len(ids) - held_out, "perplexity before": before}
    note = f"Measured on the first {held_out} tokens of the text, trained on the others."
    return replace(found, train=subject, test=subject, note=note, facts=facts, metrics=METRICS)


class AdaptedModel:
    """A base model with its adapters; saved as the adapters alone and the base's name."""

    def __init__(self, opened: Opened, base: str, kind: str) -> None:
        self.opened, self.base, self.kind = opened, base, kind

    def save(self, path: Path) -> None:
        folder = Path(path).parent
        if self.kind == "svfit":
            svfit.save_svfit(self.opened.model, folder / "adapter.safetensors")
        elif self.kind == "peft":
            peft_files.save_peft(self.opened.model, folder, base_name=self.base, task="CAUSAL_LM")
        (folder / "adapted.json").write_text(json.dumps({"base": self.base, "kind": self.kind}), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> AdaptedModel:
        """The base model with the saved adapters.

        Raises:
            ValueError: the base is not on this machine, or the adapters are of another model.
        """
        folder = Path(path).parent
        said = json.loads((folder / "adapted.json").read_text(encoding="utf-8"))
        opened = open_model(said["base"])
        if said["kind"] == "svfit":
            svfit.load_svfit(opened.model, folder / "adapter.safetensors")
        elif said["kind"] == "peft":
            peft_files.load_peft(opened.model, folder)
        opened.model.eval()
        return cls(opened, said["base"], said["kind"])


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], AdaptedModel]:
    """Attach, train, measure."""
    import time

    subject: Subject = problem.train
    opened = subject.open()
    started = time.perf_counter()
    kind, lr = method.build(run.seed)(opened, subject)
    trained = sum(p.numel() for p in opened.model.parameters() if p.requires_grad)
    if trained:
        windows = torch.cat([b["input_ids"] for b in subject.calibration])
        fit(
            opened.model, windows, model_change.next_token, steps=subject.options["steps"], batch_size=4,
            lr=subject.options.get("lr") or lr, schedule="cosine", clip=1.0, what="adapting",
            generator=torch.Generator().manual_seed(run.seed), show_progress=run.show_progress,
        )  # fmt: skip
    fit_s = time.perf_counter() - started
    opened.model.eval()
    started = time.perf_counter()
    quality = model_change.quality_before(opened.model, subject)
    figures = {"fit_s": fit_s, "predict_s": time.perf_counter() - started, **quality, "trained": float(trained)}
    return figures, AdaptedModel(opened, subject.what, kind)


def _names(model: nn.Module) -> list[str]:
    from fnmatch import fnmatchcase

    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    found = [n for n in linear if any(fnmatchcase(n, p) for p in _QUERIES_AND_VALUES)]
    if not found:
        raise ValueError(f"no query or value projection is found among {', '.join(linear[:6])}, …")
    return found


def _lora(init: str = "kaiming", train: str = "AB") -> Any:
    def change(opened: Opened, subject: Subject, seed: int) -> tuple[str, float]:
        apply.attach_lora(
            opened.model, _names(opened.model), subject.options["rank"], alpha=2 * subject.options["rank"], init=init,
            train=train, generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        return "peft", 2e-3

    return change


def _eva(opened: Opened, subject: Subject, seed: int) -> tuple[str, float]:
    rank = subject.options["rank"]
    found = eva.explain_inputs(opened.model, _names(opened.model), subject.calibration, rank)
    eva.attach_eva(opened.model, found, alpha=2 * rank)
    return "peft", 2e-3


def _svfit(opened: Opened, subject: Subject, seed: int) -> tuple[str, float]:
    svfit.attach_svfit(opened.model, _names(opened.model))
    return "svfit", 2e-2


def _nothing(opened: Opened, subject: Subject, seed: int) -> tuple[str, float]:
    opened.model.requires_grad_(False)
    return "none", 0.0


def _method(change: Any, summary: str, paper: str | None = None) -> Method:
    return Method(model_change.changing(change), summary, paper, needs=("language",))


METHODS = {
    "eva": _method(_eva, "LoRA that starts at what explains the inputs, ranks shared out by it", "eva"),
    "svfit": _method(_svfit, "the singular values alone", "svfit"),
    "lora-frozen-a": _method(
        _lora("orthonormal", "B"), "LoRA with a frozen orthonormal A: half the numbers", "lora_asymmetry"
    ),
}
BASELINES = {
    "lora": _method(_lora(), "LoRA as usual, on queries and values"),
    "pissa": _method(_lora("svd"), "LoRA that starts at the leading singular vectors (PiSSA)"),
    "nothing": _method(_nothing, "the model as it is"),
}
