"""Run many rows, each in a process of its own, under a budget of time and memory, and keep every result.

joblib's threads start the worker processes and watch them; a row that fails, hangs or is killed is a
row in the result, never the end of the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib

from gramian.atlas.errors import UserError
from gramian.atlas.find.cards import Paper
from gramian.atlas.find.sources import sources_hash
from gramian.atlas.measure.home import new_run_folder
from gramian.atlas.measure.process import POLL_S, supervise
from gramian.atlas.measure.store import Result, Store, now
from gramian.lab import FULL, QUICK, Budget


def verify(
    papers: list[Paper],
    home: Path,
    *,
    budget: Budget = QUICK,
    jobs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    backend: str = "threading",
    resume: bool = False,
    warm: bool = True,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Run the experiments of `papers` and record each result in the home's store as it ends.

    Args:
        jobs: rows at a time; by default one a core in the quick profile and one in the full profile,
            whose experiments use all cores.
        backend: joblib's: ``"threading"``, or ``"dask"``/``"ray"`` for a cluster that shares this file
            system (its client must be running).
        resume: go on with the last session where it was ended: what it has recorded is not run again.
        warm: compile the registered kernels once before the clock starts.
        on_result: called with each result as it ends.

    Returns:
        the results in the order of `papers`.
    """
    store = Store(home)
    jobs = jobs or ((os.cpu_count() or 1) if budget.name == "quick" else 1)
    slugs = [p.card.slug for p in papers]
    done: dict[str, Result] = {}
    session = None
    if resume:
        session, done = _resume(store, budget, slugs)
    session = session or store.begin_session(budget.name, slugs)
    if warm:
        warm_kernels()
    stop = home / f".stop-{session}-{os.getpid()}"
    requests = [
        {"slug": p.card.slug, "row": p.card.row, "topic": p.card.topic, "seed": seed, "device": device,
         "quick": budget.name == "quick", "folder": str(new_run_folder(home, p.card.slug)),
         "sources": sources_hash(p.path), "stop": str(stop)}
        for p in papers if p.card.slug not in done
    ]  # fmt: skip
    try:
        for result in _parallel(requests, budget, jobs, backend):
            done[result.slug] = result
            store.record(result, session)
            on_result(result)
    except BaseException:
        stop.touch()  # the watchers see it and end their workers; what is recorded stays
        time.sleep(5 * POLL_S)
        raise
    finally:
        stop.unlink(missing_ok=True)
    store.finish_session(session)
    return [done[s] for s in slugs]


def _resume(store: Store, budget: Budget, slugs: list[str]) -> tuple[int | None, dict[str, Result]]:
    last = store.unfinished_session()
    if last is None:
        return None, {}
    session, profile, begun = last
    if profile != budget.name:
        raise UserError(f"the session to resume ran the {profile} profile: say `gramian verify --{profile} --resume`")
    done = {s: r for s, r in store.of_session(session).items() if s in slugs}
    return (session, done) if set(slugs) <= set(begun) else (None, done)


def _parallel(requests: list[dict[str, Any]], budget: Budget, jobs: int, backend: str) -> Iterator[Result]:
    calls = [joblib.delayed(run_in_process)(request, budget, jobs) for request in requests]
    try:
        with joblib.parallel_config(backend=backend, n_jobs=jobs):
            yield from joblib.Parallel(return_as="generator_unordered")(calls)
    except (ImportError, ValueError) as error:
        if backend == "threading":
            raise
        raise UserError(
            f"backend {backend!r} cannot start ({error}): install `gramian[cluster]` and start its client first"
        ) from None


def run_in_process(request: dict[str, Any], budget: Budget, jobs: int = 1) -> Result:
    """Run one row in a fresh process.

    Returns:
        the worker's own result, or ``timeout``/``killed``/``error`` with what it had measured so far.
    """
    folder = Path(request["folder"])
    ended = supervise(request, folder, budget, jobs)
    written = folder / "result.json"
    if ended.status == "ended" and written.exists():
        result = Result(**json.loads(written.read_text(encoding="utf-8")))
        return replace(result, peak_mb=max(ended.peak_mb, result.peak_mb or 0.0))
    metrics = folder / "metrics.json"
    evidence = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {}
    return Result(
        request["slug"], request["row"], request["topic"], "error" if ended.status == "ended" else ended.status,
        profile=budget.name, seed=request["seed"], device=request["device"], started=now(), seconds=ended.seconds,
        peak_mb=ended.peak_mb, folder=str(folder), sources=request["sources"], reason=ended.reason, evidence=evidence,
    )  # fmt: skip


def warm_kernels() -> None:
    """Compile the registered kernels into the shared cache, in a process of its own."""
    subprocess.run([sys.executable, "-m", "gramian.atlas.measure.worker", '{"warm": true}'], check=True, timeout=600)


def profile_budget(full: bool) -> Budget:
    return FULL if full else QUICK
