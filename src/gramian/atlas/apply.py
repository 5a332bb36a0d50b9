"""Do the job with one method and keep the result: the fitted model, its predictions, and what it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from gramian.atlas.errors import UserError
from gramian.atlas.find.tasks import load_problem, method_names, task
from gramian.atlas.measure import machine
from gramian.lab import Run, seed_everything


def apply(
    task_name: str,
    method_name: str,
    out: Path,
    *,
    data: str | None = None,
    target: str | None = None,
    seed: int = 0,
    settings: list[str] | None = None,
) -> dict[str, Any]:
    """Fit a method on the data's training part and write a folder that `reuse` takes up.

    The folder holds ``model/``, ``predictions.csv`` of the test part, and ``made.json``. It appears whole
    or not at all: an interrupted run leaves what stood there before.

    Returns:
        the metrics on the test part.
    """
    from gramian.tasks.support import persistence

    module = task(task_name)
    name = method_names(module, [method_name])[0]
    problem = load_problem(module, data, target, settings)
    seed_everything(seed)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        run = Run(part, seed=seed, quick=False)
        metrics, model = module.evaluate({**module.METHODS, **module.BASELINES}[name], problem, run)
        persistence.save(model, part / "model")
        module.predict(model, problem).to_csv(part / "predictions.csv", index=False)
        made = {
            "task": module.__name__.rpartition(".")[2], "method": name, "data": problem.name, "target": target,
            "settings": settings or [], "seed": seed, "metrics": metrics, "split": problem.note,
            "versions": machine.versions(),
        }  # fmt: skip
        (part / "made.json").write_text(json.dumps(made, indent=1), encoding="utf-8")
        _put_in_place(part, out)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return metrics


def reuse(
    task_name: str, folder: Path, *, data: str, target: str | None = None, out: Path, labelled: bool = True
) -> Path:
    """Predict with a saved model; writes ``predictions.csv`` into `out` and returns its path.

    For a named set these are the predictions of its test part; for a file, of the same held-out part;
    with `labelled` False, of everything in it.
    """
    from gramian.tasks.support import persistence

    module = task(task_name)
    made_at = folder / "made.json"
    if not made_at.exists():
        raise UserError(f"{folder} was not written by `gramian apply` (no made.json)")
    made = json.loads(made_at.read_text(encoding="utf-8"))
    if made["task"] != module.__name__.rpartition(".")[2]:
        raise UserError(f"{folder} holds a model for the task {made['task'].replace('_', '-')}, not {task_name}")
    try:
        model = persistence.load(folder / "model")
    except ValueError as error:
        raise UserError(str(error)) from None
    more = {} if labelled else {"labelled": False}
    problem = load_problem(module, data, target or made["target"], made.get("settings"), **more)
    try:
        frame = module.predict(model, problem)
    except ValueError as error:
        raise UserError(f"{made['method']}: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    frame.to_csv(out / "predictions.csv", index=False)
    return out / "predictions.csv"


def _put_in_place(part: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        if any(out.iterdir()) and not (out / "made.json").exists():
            raise UserError(f"{out} is not empty and was not written by `gramian apply`; choose another folder")
        out.rename(old)
    part.rename(out)
    shutil.rmtree(old, ignore_errors=True)
