"""What an experiment may cost: seconds, threads and memory, by profile."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The limits of one experiment.

    Args:
        seconds: how long the experiment should take at most, kernels compiled and data fetched.
        patience: how many times `seconds` the process may live before it is ended (imports and a busy
            machine count against it).
        threads: threads that torch, numba and BLAS may use; 0 means all cores.
        memory_mb: resident memory of the process tree, in MiB, above which it is ended.
    """

    name: str
    seconds: float
    patience: float
    threads: int
    memory_mb: int

    @property
    def limit_s(self) -> float:
        return self.seconds * self.patience

    def thread_environment(self, workers: int = 1) -> dict[str, str]:
        """The environment variables that hold a process to its share of the cores."""
        count = str(self.threads or max(1, (os.cpu_count() or 1) // workers))
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        # waiting threads that spin cost a small network ten times its work where cores are shared
        return {**dict.fromkeys(names, count), "OMP_WAIT_POLICY": "PASSIVE"}


QUICK = Budget("quick", seconds=10, patience=9, threads=1, memory_mb=6 * 1024)
FULL = Budget("full", seconds=120, patience=5, threads=0, memory_mb=16 * 1024)
