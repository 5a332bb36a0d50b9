"""Put the methods that serve one need side by side: quality and cost, several seeds, each in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gramian.atlas.find.tasks import load_problem, measures, method_names, task
from gramian.atlas.measure import machine
from gramian.atlas.measure.process import supervise
from gramian.atlas.measure.store import now
from gramian.lab import Budget, Missing, Run, figures, seed_everything

COSTS = {
    "fit_s": "seconds to fit",
    "predict_s": "seconds to predict",
    "peak_mb": "peak memory, MiB",
    "parameters": "numbers held",
    "bytes": "bytes saved",
}


@dataclass
class Line:
    """One method's line: a status, and its figures for every seed."""

    method: str
    paper: str | None
    summary: str
    status: str
    reason: str | None = None
    seeds: list[dict[str, float]] = field(default_factory=list)

    def mean(self, name: str) -> float | None:
        values = [s[name] for s in self.seeds if s.get(name) is not None]
        return statistics.fmean(values) if values else None

    def spread(self, name: str) -> float | None:
        values = [s[name] for s in self.seeds if s.get(name) is not None]
        return statistics.stdev(values) if len(values) > 1 else None


def compare(
    task_name: str,
    folder: Path,
    *,
    data: str | None = None,
    target: str | None = None,
    methods: list[str] | None = None,
    seeds: int = 3,
    seconds: float = 900,
    settings: list[str] | None = None,
    on_line: Callable[[Line], None] = lambda line: None,
) -> tuple[list[Line], Path]:
    """Measure each method on the same split with the same seeds; write ``compare.json``, the picture and the report.

    Args:
        data: a named data set, or a file or folder of the user's; the task's default without it.
        methods: names to keep to; all by default.
        seconds: how long one method may take, all its seeds together.
        settings: the task's options, ``name=value``.
        on_line: called with each method's line as it ends.

    Returns:
        the lines, best first, and the report's path.
    """
    module = task(task_name)
    names = method_names(module, methods)
    problem = load_problem(module, data, target, settings)  # bad data is said here, once, before any process starts
    budget = Budget("compare", seconds=seconds, patience=1, threads=0, memory_mb=16 * 1024)
    lines = []
    for name in names:
        method = {**module.METHODS, **module.BASELINES}[name]
        request = {
            "task": task_name,
            "method": name,
            "data": data,
            "target": target,
            "seeds": seeds,
            "settings": settings or [],
            "folder": str(folder / name),
        }
        ended = supervise(request, folder / name, budget)
        line = Line(name, method.paper, method.summary, "ok")
        written = folder / name / "evaluation.json"
        if written.exists():
            found = json.loads(written.read_text(encoding="utf-8"))
            line.seeds, line.status, line.reason = found["seeds"], found["status"], found["reason"]
        if ended.status != "ended":
            line.status, line.reason = ended.status, ended.reason
        lines.append(line)
        on_line(line)
    headline, metrics = measures(module, problem)
    sign = 1 if metrics[headline] == "higher" else -1
    lines.sort(key=lambda a: -sign * value if (value := a.mean(headline)) is not None else float("inf"))
    return lines, _write(module, problem, lines, folder, seeds)


def evaluate_in_worker(request: dict[str, Any]) -> None:
    """Measure one method in this process for all seeds and write ``evaluation.json`` after each of them."""
    from gramian.tasks.support import persistence
    from gramian.tasks.support.contract import count_parameters

    folder = Path(request["folder"])
    module = task(request["task"])
    method = {**module.METHODS, **module.BASELINES}[request["method"]]
    found: dict[str, Any] = {"status": "ok", "reason": None, "seeds": []}
    try:
        problem = load_problem(module, request["data"], request["target"], request.get("settings"))
        for seed in range(request["seeds"]):
            seed_everything(seed)
            before = _resident_mb()
            run = Run(folder, seed=seed, quick=False, show_progress=False)
            metrics, model = module.evaluate(method, problem, run)
            metrics["peak_mb"] = round(max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before), 1)
            metrics["parameters"] = count_parameters(model)
            metrics["bytes"] = persistence.save(model, folder / "model")
            found["seeds"].append({"seed": seed, **metrics})
            (folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    except Missing as missing:
        found |= {"status": "skipped", "reason": str(missing)}
    except ValueError as error:
        found |= {"status": "failed", "reason": str(error)}
    except Exception:
        found |= {"status": "error", "reason": traceback.format_exc()}
    (folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")


def _resident_mb() -> float:
    import psutil

    return psutil.Process(os.getpid()).memory_info().rss / 2**20


def table_rows(metrics: dict[str, str], lines: list[Line]) -> tuple[list[str], list[list[Any]]]:
    """The comparison as columns and rows: quality with its spread over seeds, then cost."""
    columns = ["method", "from", *metrics, *COSTS.values(), ""]
    rows = []
    for line in lines:
        quality = []
        for name in metrics:
            mean, spread = line.mean(name), line.spread(name)
            quality.append("–" if mean is None else f"{mean:.4g}" + (f" ± {spread:.2g}" if spread else ""))
        costs = []
        for name in COSTS:
            mean = line.mean(name)
            costs.append("–" if mean is None else f"{mean:,.0f}" if mean >= 100 else f"{mean:.3g}")
        why = "" if line.status == "ok" else f"{line.status}: {(line.reason or '').strip().splitlines()[-1]}"
        rows.append([line.method, line.paper or "baseline", *quality, *costs, why])
    return columns, rows


def _write(module: Any, problem: Any, lines: list[Line], folder: Path, seeds: int) -> Path:
    from markupsafe import Markup

    from gramian.atlas.pages.report import environment

    headline, metrics = measures(module, problem)
    record = {
        "task": module.__name__.rpartition(".")[2], "data": problem.name, "split": problem.note, "facts": problem.facts,
        "seeds": list(range(seeds)), "metrics": metrics, "lines": [vars(line) for line in lines],
        "versions": machine.versions(), "machine": machine.processor(), "measured": now(),
    }  # fmt: skip
    (folder / "compare.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    svg = ""
    if any(line.seeds for line in lines):
        with figures.style():
            figure = _picture(headline, metrics[headline], lines, getattr(module, "COST", "seconds"), problem.facts)
            figures.save(figure, folder, "compare", salt=record["task"])
        svg = Markup((folder / "compare.svg").read_text(encoding="utf-8"))
    columns, rows = table_rows(metrics, lines)
    results = _draw_results(module, problem, lines, folder)
    page = (
        environment()
        .get_template("compare.html")
        .render(
            title=f"{module.TITLE}: {problem.name}",
            problem=problem,
            columns=columns,
            rows=rows,
            svg=svg,
            results=results,
            record=record,
            lines=lines,
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


def _draw_results(module: Any, problem: Any, lines: list[Line], folder: Path) -> str:
    """The task's own picture of what the saved models make of the test part, where it has one; written beside."""
    from markupsafe import Markup

    from gramian.tasks.support import persistence

    saved = [line.method for line in lines if line.seeds]
    if not hasattr(module, "draw") or not saved:
        return ""
    with figures.style():
        figure = module.draw({name: persistence.load(folder / name / "model") for name in saved}, problem)
        figures.save(figure, folder, "results", salt=module.__name__)
    return Markup((folder / "results.svg").read_text(encoding="utf-8"))


def _picture(headline: str, better: str, lines: list[Line], cost: str, before: dict[str, Any]) -> Any:
    """Quality against what it costs (seconds, or bytes where those are the point); papers filled, baselines hollow.

    Args:
        before: the problem's facts; with ``bytes`` and the headline's figure before, the unchanged model is drawn too.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2))
    unit = 2**20 if cost == "bytes" else 1
    for i, line in enumerate(a for a in lines if a.seeds):
        quality = line.mean(headline) or 0.0
        spent = line.mean("bytes") if cost == "bytes" else (line.mean("fit_s") or 0.0) + (line.mean("predict_s") or 0.0)
        colour = f"C{i % 8}"
        label = line.method if line.paper else f"{line.method} (baseline)"
        axes.errorbar(
            (spent or 0.0) / unit, quality, yerr=line.spread(headline), fmt="o", markersize=9, capsize=3, color=colour,
            markerfacecolor=colour if line.paper else "none", markeredgewidth=2, label=label,
        )  # fmt: skip
    values = [v for line in lines if (v := line.mean(headline)) is not None]
    if cost == "bytes":
        at, whole = before.get(f"{headline} before"), before.get("bytes", 0)
        largest = max(line.mean("bytes") or 0.0 for line in lines if line.seeds)
        if at is not None and 0 < whole < 20 * largest:  # beside adapters the whole model is not shown
            axes.plot(whole / unit, at, "*", markersize=13, color="C7", label="the model before")
            values.append(at)
            largest = max(largest, whole)
        axes.set_xlim(0, 1.1 * largest / unit)
    else:
        axes.set_xscale("log")
    axes.set_xlabel("MiB saved to disk" if cost == "bytes" else "seconds to fit and predict")
    axes.set_ylabel(f"{headline} ({better} is better)")
    if min(values) > 0 and max(values) > 50 * min(values):
        axes.set_yscale("log")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    return figure
