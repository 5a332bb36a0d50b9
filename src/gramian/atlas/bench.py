"""Benchmarks: a hot function of ours against its peers, as ratios with their spread.

A benchmark is a file ``benchmarks/<name>.py`` of the repository that defines ``BENCHMARK = Benchmark(…)``. Contenders
take turns in one process, so that whatever else the machine does falls on all of them alike, and every round gives
one ratio. Memory is the peak of the resident size minus what the process held before, in a fresh process each.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gramian
from gramian.atlas.errors import UserError

__all__ = ["Benchmark", "Contender", "list_benchmarks", "run_benchmark"]


@dataclass(frozen=True)
class Contender:
    """One implementation.

    Args:
        name: what the table calls it.
        prepare: makes the inputs of a size (its keyword arguments) and returns the function to time.
        needs: modules that must be installed.
        size: which of the benchmark's sizes it runs at: ``"full"``, or ``"small"`` where it would take too long.
        rounds: how often it is timed, if not as often as the benchmark says.
    """

    name: str
    prepare: Callable[..., Callable[[], Any]]
    needs: tuple[str, ...] = ()
    size: str = "full"
    rounds: int | None = None

    def missing(self) -> str | None:
        """What is not installed and how to get it, or None."""
        absent = [m for m in self.needs if importlib.util.find_spec(m) is None]
        return f"not installed: {', '.join(absent)} (pip install {' '.join(absent)})" if absent else None


@dataclass(frozen=True)
class Benchmark:
    """A function of ours and its peers.

    Args:
        title: what is done.
        contenders: ours first.
        sizes: keyword arguments of `prepare` by name of size; ``"full"``, ``"small"`` where a contender needs it,
            and ``"tiny"``, which is run once before anything is measured.
        rounds: how often each contender is timed.
        accuracy: figures of correctness to report beside the speed, by name.
    """

    title: str
    contenders: tuple[Contender, ...]
    sizes: Mapping[str, Mapping[str, int]]
    rounds: int = 7
    accuracy: Callable[[], dict[str, float]] | None = None
    notes: tuple[str, ...] = field(default=())


def folder() -> Path:
    """The repository's folder of benchmarks.

    Raises:
        UserError: gramian runs from an installed package, which has none.
    """
    root = Path(gramian.__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists() or not (root / "benchmarks").is_dir():
        raise UserError(
            f"the benchmarks are part of the repository, and gramian runs from an installed package ({root}): "
            "clone the repository and install it with `pip install -e .`"
        )
    return root / "benchmarks"


def list_benchmarks() -> list[str]:
    """Names of the benchmarks."""
    return sorted(p.stem for p in folder().glob("*.py") if not p.stem.startswith("_"))


def load(path: Path) -> Benchmark:
    """The benchmark that a file defines."""
    spec = importlib.util.spec_from_file_location(f"gramian_benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "BENCHMARK", None), Benchmark):
        raise UserError(f"{path} defines no BENCHMARK = Benchmark(…)")
    return module.BENCHMARK


def run_benchmark(name: str, out: Path | str) -> dict[str, Any]:
    """Run a benchmark, print its table, and write ``<name>.json``, ``.png`` and ``.svg`` into `out`.

    Raises:
        UserError: no benchmark of that name.
    """
    path = folder() / f"{name}.py"
    if not path.exists():
        raise UserError(f"no benchmark {name!r}; there are: {', '.join(list_benchmarks())}")
    result = measure(path)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _draw(result, out, name)
    _print(result)
    return result


def measure(path: Path) -> dict[str, Any]:
    """All figures of the benchmark in a file."""
    import torch

    from gramian.atlas.measure import machine

    benchmark = load(path)
    rows: list[dict[str, Any]] = []
    for size in dict.fromkeys(c.size for c in benchmark.contenders):
        rows += _alternate(benchmark, size)
    for row in rows:
        if "missing" not in row:
            row["peak_mb"] = _memory(path, row["name"], row["size"])
    for row in rows:
        reference = next((r for r in rows if r["ours"] and r["size"] == row["size"]), None)
        if reference and "peak_mb" in row and reference["peak_mb"]:
            row["memory_ratio"] = row["peak_mb"] / reference["peak_mb"]
    return {
        "title": benchmark.title,
        "sizes": {name: dict(size) for name, size in benchmark.sizes.items()},
        "rows": rows,
        "accuracy": benchmark.accuracy() if benchmark.accuracy else {},
        "notes": list(benchmark.notes),
        "processor": machine.processor(),
        "threads": torch.get_num_threads(),
        "versions": machine.versions(),
    }


def _alternate(benchmark: Benchmark, size: str) -> list[dict[str, Any]]:
    """Time the contenders of one size (and ours) in turns."""
    ours = benchmark.contenders[0]
    taking_part = [ours] + [c for c in benchmark.contenders[1:] if c.size == size]
    rows, functions, times = [], {}, {}
    for contender in taking_part:
        row: dict[str, Any] = {"name": contender.name, "size": size, "ours": contender is ours}
        rows.append(row)
        if (why := contender.missing()) is not None:
            row["missing"] = why
            continue
        contender.prepare(**benchmark.sizes["tiny"])()  # imports and compiles
        functions[contender.name] = contender.prepare(**benchmark.sizes[size])
        times[contender.name] = []
    counts = {c.name: c.rounds or benchmark.rounds for c in taking_part}
    counts[ours.name] = max(counts.values())
    for turn in range(max(counts[name] for name in functions)):
        for name, function in functions.items():
            if turn < counts[name]:
                if turn == 0 and counts[name] > 1:
                    function()  # the first call touches memory for the first time
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    for row in rows:
        if row["name"] in times:
            taken = times[row["name"]]
            row["seconds"] = taken
            row["median_s"] = statistics.median(taken)
            row["ratio"] = _quartiles([t / o for t, o in zip(taken, times[ours.name], strict=False)])
    return rows


def _quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _memory(path: Path, contender: str, size: str) -> float | None:
    """Peak resident size minus baseline of one contender, in MiB, in a process of its own."""
    command = [sys.executable, "-m", "gramian.atlas.bench", str(path), contender, size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {contender} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _peak_of(path: Path, contender: str, size: str) -> float:
    """Run a contender once in this process; what its peak adds to the resident size, in MiB."""
    import gc

    import psutil

    benchmark = load(path)
    found = next(c for c in benchmark.contenders if c.name == contender)
    found.prepare(**benchmark.sizes["tiny"])()
    function = found.prepare(**benchmark.sizes[size])
    gc.collect()
    baseline = psutil.Process().memory_info().rss
    with contextlib.suppress(OSError):  # Linux forgets the peak so far
        Path("/proc/self/clear_refs").write_text("5")
    kept = function()
    peak = _peak_rss()
    del kept
    return (peak - baseline) / 2**20


def _peak_rss() -> int:
    """Highest resident size of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _print(result: dict[str, Any]) -> None:
    """The table, and what it was measured with."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(title=result["title"], title_justify="left", box=SIMPLE_HEAD)
    for column in ("contender", "size", "median s", "times ours: median (quartiles)", "peak MiB", "times ours"):
        table.add_column(column, justify="left" if column in ("contender", "size") else "right")
    for row in result["rows"]:
        size = " ".join(f"{k}={v}" for k, v in result["sizes"][row["size"]].items())
        if "missing" in row:
            table.add_row(row["name"], size, row["missing"], "", "", "")
            continue
        low, middle, high = row["ratio"]
        ratio = "1" if row["ours"] else f"{middle:.1f} ({low:.1f} … {high:.1f})"
        memory = f"{row['memory_ratio']:.1f}" if "memory_ratio" in row else ""
        table.add_row(row["name"], size, f"{row['median_s']:.3f}", ratio, f"{row['peak_mb']:.0f}", memory)
    console.print(table)
    for claim, value in result["accuracy"].items():
        console.print(f"{claim}: {value:.2g}")
    for note in result["notes"]:
        console.print(note)
    processor = result["processor"]
    console.print(
        f"{processor['name']}, {result['threads']} threads of {processor['cores']} cores, {processor['flags']}"
    )
    console.print(", ".join(f"{k} {v}" for k, v in result["versions"].items()))


def _draw(result: dict[str, Any], out: Path, name: str) -> None:
    """Two bar charts, time and memory, each relative to ours."""
    from gramian.lab import figures

    rows = [r for r in result["rows"] if not r["ours"] and "missing" not in r]
    with figures.style():
        from matplotlib import pyplot

        figure, (speed, memory) = pyplot.subplots(
            1, 2, figsize=(9, 1.3 + 0.5 * (1 + len(rows))), sharey=True, layout="constrained"
        )
        labels = ["gramian"] + [r["name"] + ("" if r["size"] == "full" else " (smaller size)") for r in rows]
        medians = [1.0] + [r["ratio"][1] for r in rows]
        spread = [
            [0.0] + [r["ratio"][1] - r["ratio"][0] for r in rows],
            [0.0] + [r["ratio"][2] - r["ratio"][1] for r in rows],
        ]
        peaks = [1.0] + [r.get("memory_ratio", 0.0) for r in rows]
        colours = ["C1"] + ["C0"] * len(rows)
        speed.barh(labels, medians, xerr=spread, color=colours)
        memory.barh(labels, peaks, color=colours)
        for axes, values, what in ((speed, medians, "time"), (memory, peaks, "peak memory")):
            axes.set(xscale="log", xlabel=f"{what}, times ours", xlim=(0.5, 3 * max(*values, 2.0)))
            for i, value in enumerate(values):
                axes.annotate(f"{value:.3g}", (value, i), xytext=(14, 0), textcoords="offset points", va="center")
        speed.invert_yaxis()
        figure.suptitle(result["title"], fontsize=11)
        figures.save(figure, out, name, salt=name)
        pyplot.close(figure)


if __name__ == "__main__":
    # started as a script this file would define its classes a second time
    from gramian.atlas import bench

    print(json.dumps(bench._peak_of(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
