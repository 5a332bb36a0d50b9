"""What every compiled kernel shares: one cache folder, a registry of warm-ups, and threads.

Import `numba` through this module (``from gramian.linalg.kernels import numba``): it points numba at one
cache folder of the user before the first function is compiled, so that a kernel compiles once per machine
and not once per process.

A kernel here is an ``@numba.njit(nogil=True, cache=True)`` function over ``@typing.no_type_check`` that does one
*task*, a piece of the work that is fixed by the shapes alone. `run_tasks` hands the tasks to threads. Because each
task writes only what is its own, results do not depend on the number of threads, and because no thread pool
outlives a call, a process may fork afterwards.
"""

import hashlib
import itertools
import os
import sys
import tempfile
import threading
import typing
from collections.abc import Callable
from pathlib import Path

import platformdirs

__all__ = ["numba", "run_tasks", "warm_all", "warmup", "warmups"]


def _default_cache() -> str:
    """The cache folder: the user's, by a digest of the helpers that are compiled into every kernel."""
    # numba notices a change in a kernel's own file only; simd.py is inlined into all of them
    digest = hashlib.sha256(Path(__file__).with_name("simd.py").read_bytes()).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("gramian")) / "numba" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:  # a read-only home: kernels compile in each process
        return tempfile.mkdtemp(prefix="gramian-numba-")


if not os.environ.get("NUMBA_CACHE_DIR"):
    os.environ["NUMBA_CACHE_DIR"] = _default_cache()
    if "numba" in sys.modules:  # its configuration was read before ours was set
        sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]

import numba  # noqa: E402

_WARMUPS: dict[str, Callable[[], object]] = {}


def warmup(function: Callable[[], object]) -> Callable[[], object]:
    """Register `function`, which calls a kernel on the smallest input that compiles all of it.

    >>> @warmup
    ... def _nothing():
    ...     return None
    >>> any(name.endswith("._nothing") for name in warmups())
    True
    """
    _WARMUPS[f"{function.__module__}.{function.__qualname__}"] = function
    return function


def warmups() -> tuple[str, ...]:
    """The names of the registered warm-ups, sorted."""
    return tuple(sorted(_WARMUPS))


def warm_all() -> dict[str, float]:
    """Compile every kernel of `gramian.linalg` (or load it from the cache), one after the other.

    Returns:
        seconds by name of warm-up.
    """
    import pkgutil
    import time
    from importlib import import_module

    import gramian.linalg

    for module in pkgutil.walk_packages(gramian.linalg.__path__, "gramian.linalg."):
        if module.name.endswith(("_kernels", "_ops")):  # where kernels register their warm-ups
            import_module(module.name)
    seconds = {}
    for name in warmups():
        start = time.perf_counter()
        _WARMUPS[name]()
        seconds[name] = time.perf_counter() - start
    return seconds


@typing.no_type_check
def run_tasks(kernel: Callable[..., object], tasks: int, *arguments: object, threads: int | None = None) -> None:
    """Call ``kernel(task, *arguments)`` for each task in ``range(tasks)``.

    The kernel must release the interpreter lock (``nogil=True``) and write only what belongs to its task.

    Args:
        threads: how many threads; by default as many as torch may use (`torch.get_num_threads`).

    Raises:
        Exception: whatever a kernel raised first.
    """
    import torch

    workers = min(torch.get_num_threads() if threads is None else threads, tasks)
    if workers <= 1:
        for task in range(tasks):
            kernel(task, *arguments)
        return
    counter, failures = itertools.count(), []

    def work() -> None:
        try:
            while (task := next(counter)) < tasks and not failures:
                kernel(task, *arguments)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
