"""Run an experiment and say how it ended: the core under `gramian run` and under every worker of `verify`."""

from __future__ import annotations

import json
import resource
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gramian.atlas.find.cards import Paper
from gramian.atlas.find.options import convert
from gramian.atlas.find.sources import sources_hash
from gramian.atlas.measure import machine
from gramian.atlas.measure.store import Result, now
from gramian.lab import Missing, Run, figures, seed_everything


def outcome(experiment: Callable[..., None], run: Run, **options: Any) -> tuple[str, str | None]:
    """Run `experiment` under the run's seed and figure style.

    Returns:
        the status (``ok``, ``failed``, ``error`` or ``skipped``) and, for the last two, why. An
        experiment without a check is an ``error``: it shows nothing.
    """
    try:
        seed_everything(run.seed)
        with figures.style():
            experiment(run, **options)
    except Missing as missing:
        return "skipped", str(missing)
    except Exception:
        return "error", traceback.format_exc()
    finally:
        run.write()
    if not run.checks:
        return "error", "the experiment made no check"
    return ("ok" if all(c.ok for c in run.checks) else "failed"), None


def run_paper(paper: Paper, run: Run, settings: list[str] | None = None) -> Result:
    """Run a paper's experiment in this process and write its ``result.json`` and ``report.html``.

    The clock starts after the import: a figure of seconds is the experiment's alone.
    """
    from gramian.atlas.pages.report import write_report

    result = Result(
        paper.card.slug, paper.card.row, paper.card.topic, "error", started=now(), folder=str(run.out),
        profile="quick" if run.quick else "full", seed=run.seed, device=run.device, sources=sources_hash(paper.path),
    )  # fmt: skip
    options: dict[str, Any] = {}
    start = time.perf_counter()
    try:
        experiment = paper.module().experiment
        options = convert(experiment, settings or [])
    except ImportError as error:
        result.reason = f"{error}; `gramian doctor` shows what is missing"
        result.status = "skipped" if paper.card.needs else "error"
    else:
        start = time.perf_counter()
        result.status, result.reason = outcome(experiment, run, **options)
    result.seconds = round(time.perf_counter() - start, 2)
    result.peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    versions = {"versions": machine.versions(), "machine": machine.processor()}
    result.evidence = {**run.as_dict(), "options": {k: str(v) for k, v in options.items()}, **versions}
    write_result(result, run.out)
    write_report([(paper.card, result)], run.out / "report.html")
    return result


def write_result(result: Result, folder: Path) -> None:
    """Write ``result.json``, whole or not at all."""
    part = folder / ".result.json.part"
    part.write_text(json.dumps(asdict(result), ensure_ascii=False), encoding="utf-8")
    part.replace(folder / "result.json")
