"""One worker process under a budget: started, watched, and ended with everything below it when it goes past."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gramian.lab import Budget

POLL_S = 0.2


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes:
        status: ``ended`` (by itself, with exit code 0), ``error``, ``timeout`` or ``killed``.
        reason: why, where it did not end well; the last of its output with an ``error``.
        peak_mb: the most resident memory that its process tree was seen to hold, in MiB.
    """

    status: str
    reason: str | None
    seconds: float
    peak_mb: float


PARENT = "GRAMIAN_PARENT"
"""Environment variable with the process whose end ends a worker."""


def supervise(request: dict[str, Any], folder: Path, budget: Budget, jobs: int = 1) -> Ended:
    """Run `python -m gramian.atlas.measure.worker REQUEST`, its output in ``folder/output.txt``.

    The worker gets a process group of its own, which is killed whole when its resident memory or its
    time passes the budget, or when the file that the request names as ``stop`` appears.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **budget.thread_environment(jobs), "MPLBACKEND": "Agg", PARENT: str(os.getpid())}
    stop = Path(request["stop"]) if request.get("stop") else None
    start = time.perf_counter()
    with (folder / "output.txt").open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "gramian.atlas.measure.worker", json.dumps(request)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        peak, verdict = 0.0, None
        while worker.poll() is None and verdict is None:
            peak = max(peak, _tree_mb(worker.pid))
            if peak > budget.memory_mb:
                verdict = "killed", f"its processes held {peak:.0f} MiB, over the cap of {budget.memory_mb} MiB"
            elif time.perf_counter() - start > budget.limit_s:
                verdict = "timeout", f"did not end within {budget.limit_s:.0f} s"
            elif stop is not None and stop.exists():
                verdict = "killed", "the run was interrupted"
            else:
                time.sleep(POLL_S)
        if verdict is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    seconds, peak = round(time.perf_counter() - start, 2), round(peak, 1)
    if verdict is not None:
        return Ended(*verdict, seconds, peak)
    if worker.returncode < 0:
        return Ended("killed", f"ended by signal {signal.Signals(-worker.returncode).name}", seconds, peak)
    if worker.returncode:
        tail = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-4000:]
        return Ended("error", f"ended with exit code {worker.returncode}\n{tail}", seconds, peak)
    return Ended("ended", None, seconds, peak)


def _tree_mb(pid: int) -> float:
    """Resident memory of a process and all below it, in MiB."""
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total / 2**20
