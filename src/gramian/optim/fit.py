"""The fit loop: the one place where a module is trained.

On one process it is a plain loop. Under ``torchrun`` accelerate joins the processes (DDP, the device of
each), and the steps are those of one process with the same global batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gramian.lab import progress_bar
from gramian.optim.batches import Batches, Data
from gramian.optim.memory import History, Memory
from gramian.optim.place import Means, Place

Loss = Callable[..., Any]
"""(module, *batch) → a scalar tensor, the mean over the batch, or that and a dictionary of further means."""

SCHEDULES = ("constant", "cosine", "linear")


class Diverged(RuntimeError):
    """The loss became NaN or infinite; the message says when, and at which learning rate."""


def parameter_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer; a submodule with ``parameter_groups(lr, weight_decay)`` decides for itself.

    Of the others, biases, norms and every other parameter of fewer than two axes are not decayed.
    Parameters that need no gradient are left out.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()

    def add(parameters: list[nn.Parameter], **settings: float) -> None:
        fresh = [p for p in parameters if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if not fresh:
            return
        for group in groups:
            if {k: v for k, v in group.items() if k != "params"} == settings:
                group["params"] += fresh
                return
        groups.append({"params": fresh, **settings})

    def visit(part: nn.Module) -> None:
        own = getattr(part, "parameter_groups", None)
        if callable(own):
            for group in own(lr, weight_decay):
                settings = {"lr": lr, "weight_decay": weight_decay} | {k: v for k, v in group.items() if k != "params"}
                add(list(group["params"]), **settings)
            return
        for parameter in part.parameters(recurse=False):
            add([parameter], lr=lr, weight_decay=weight_decay if parameter.ndim > 1 else 0.0)
        for child in part.children():
            visit(child)

    visit(module)
    return groups


def _factor(step: int, total: int | None, schedule: str, warmup: int) -> float:
    """The learning rate of a step as a share of its peak."""
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or total is None:
        return 1.0
    left = 1 - (step - warmup) / max(1, total - warmup)
    return 0.5 - 0.5 * math.cos(math.pi * left) if schedule == "cosine" else left


def fit(
    module: nn.Module,
    data: Data,
    loss: Loss,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    warmup: int = 0,
    clip: float | None = None,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
    validation: Data | None = None,
    monitor: str = "loss",
    patience: int | None = None,
    per_round: int | None = None,
    checkpoint: str | Path | None = None,
    generator: torch.Generator | None = None,
    device: str | torch.device | None = None,
    log: Callable[..., None] | None = None,
    what: str | None = None,
    show_progress: bool | None = None,
) -> History:
    """Train `module` in place, minimizing ``loss(module, *batch)`` over `data`.

    Args:
        data: tensors of one length (shuffled and batched here), an iterable of batches such as a
            DataLoader, or a function that draws a batch from a generator.
        loss: (module, *batch) → the batch's mean loss, or that and a dictionary of further means to record
            (``{"accuracy": …}``).
        epochs, steps: exactly one: passes over the data, or optimizer steps.
        batch_size: over all processes together; for tensors only.
        lr, weight_decay: of AdamW; a submodule's ``parameter_groups(lr, weight_decay)`` may set its own.
        schedule: ``constant``, ``cosine`` or ``linear``, the last two falling to zero at the end.
        warmup: steps over which the learning rate rises to its peak.
        clip: largest norm of the gradient.
        optimizer: parameter groups → optimizer; AdamW by default.
        validation: like `data`; measured after every round, without gradient and in evaluation mode. The
            weights of the best round are put back at the end.
        monitor: what decides which round is best: ``"loss"`` (lowest), or ``"-name"`` for the highest of
            one of the loss's further metrics.
        patience: rounds without improvement after which to stop; needs `validation`.
        per_round: steps in a round, where `data` is a function; by default a tenth of `steps`.
        checkpoint: a file, written after every round; if it is there, the fit continues from it, bit for
            bit as if it had not been interrupted, torch's own random state (dropout) included.
        generator: source of the shuffling; without one, a fixed seed.
        device: by default the module's (under torchrun, accelerate's).
        log: called with each row of the history, such as `Run.log`.
        what, show_progress: the progress bar's title, and whether to draw it.

    Raises:
        ValueError: an argument that does not fit, or a checkpoint of another fit.
        Diverged: the loss is NaN or infinite at the end of a round.
    """
    _check(epochs, steps, schedule, warmup, patience, validation)
    place = Place(device, module)
    if per_round is None and steps is not None:
        per_round = max(1, steps // 10)
    shares = {"process": place.process, "processes": place.processes, "prepare": place.prepare_loader}
    batches = Batches(data, batch_size, shuffle=True, per_round=per_round, **shares)
    held_out = None
    if validation is not None:
        held_out = Batches(validation, max(batch_size, 256), shuffle=False, per_round=1, **shares)
    total = steps
    if epochs is not None and batches.length is not None:
        total = epochs * batches.length
    if total is None and schedule != "constant":
        raise ValueError(
            f"schedule={schedule!r} needs the number of steps, but the batches have no length: give steps="
        )

    groups = parameter_groups(module, lr, weight_decay)
    if not groups:
        raise ValueError("the module has no parameter that needs a gradient")
    run = place.prepare(module)
    tuner = torch.optim.AdamW(groups) if optimizer is None else optimizer(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(tuner, lambda step: _factor(step, total, schedule, warmup))
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    memory = Memory(
        module, tuner, scheduler, monitor, checkpoint if place.process == 0 else None, validation is not None,
        seed=int(torch.randint(2**40, (), generator=generator)),
        settings={"lr": lr, "batch_size": batch_size, "schedule": schedule, "total": schedule != "constant" and total},
    )  # fmt: skip
    if checkpoint is not None and Path(checkpoint).exists():
        memory.resume(checkpoint)
    history = memory.history

    def rounds() -> Iterator[int]:
        while not memory.finished(epochs, steps, patience):
            yield len(history.rows)

    expected = epochs
    if steps is not None and batches.length:
        expected = -(-steps // batches.length)
    show = show_progress if place.process == 0 else False
    bar = progress_bar(rounds(), what or f"fitting {type(module).__name__}", total=expected, show=show)
    started = time.perf_counter()
    for index in bar:
        run.train()
        means = Means(place)
        for batch, weight, size in batches.round(memory.seed + index):
            rate = max(group["lr"] for group in tuner.param_groups)
            value, metrics = _split(loss(run, *place.move(batch)))
            tuner.zero_grad(set_to_none=True)
            place.backward(value * weight)
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            tuner.step()
            scheduler.step()
            means.add(metrics, weight * size)
            history.steps += 1
            if history.steps == steps:
                break
        row = {"epoch": index + 1, "step": history.steps, "lr": rate, **means.read()}
        if not math.isfinite(row["loss"]):
            raise Diverged(f"the loss is {row['loss']} in round {index + 1}, at lr={rate:g}; lower lr= or give clip=")
        if held_out is not None:
            run.eval()
            means = Means(place)
            with torch.no_grad():
                for batch, weight, size in held_out.round(memory.seed):
                    means.add(_split(loss(run, *place.move(batch)))[1], weight * size)
            row |= {f"validation_{name}": value for name, value in means.read().items()}
        row["seconds"] = round(time.perf_counter() - started, 3)
        memory.keep(row)
        place.wait()
        if log is not None and place.process == 0:
            log(**row)
    memory.restore_best()
    module.eval()
    return history


def _split(result: Any) -> tuple[Tensor, dict[str, Any]]:
    value, more = result if isinstance(result, tuple) else (result, {})
    return value, {"loss": value, **more}


def _check(
    epochs: int | None, steps: int | None, schedule: str, warmup: int, patience: int | None, validation: Data | None
) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(f"give exactly one of epochs= and steps=, not epochs={epochs}, steps={steps}")
    if (epochs if epochs is not None else steps or 0) < 1:
        raise ValueError(f"epochs={epochs}, steps={steps}: at least 1 is needed")
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if warmup < 0:
        raise ValueError(f"warmup={warmup} must not be negative")
    if patience is not None and (validation is None or patience < 1):
        raise ValueError("patience= counts rounds without improvement: it needs validation= and must be at least 1")
