"""What a figure was measured with: versions and the machine, without importing anything heavy."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("gramian", "torch", "numpy", "scipy", "scikit-learn", "numba", "transformers", "aeon")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def processor() -> dict[str, str | int]:
    """The processor's name, cores, and the vector instructions that kernels are compiled for."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in text.split("\n\n")[0].splitlines() if ":" in line
    )
    flags = set(fields.get("flags", "").split())
    wanted = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")
    return {
        "name": fields.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count() or 1,
        "flags": " ".join(f for f in wanted if f in flags) or platform.machine(),
    }
