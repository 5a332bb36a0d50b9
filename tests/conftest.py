"""Every test runs with shapes and types checked: jaxtyping's import hook with beartype over the whole package."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

if not os.environ.get("GRAMIAN_TESTS_UNHOOKED"):
    from jaxtyping import install_import_hook

    install_import_hook("gramian", "typecheck.check").__enter__()

import pytest

from gramian.lab import Run


@pytest.fixture
def quick_run(tmp_path) -> Run:
    """A quick run with seed 0 that leaves what it measures in a temporary folder."""
    return Run(tmp_path / "run", seed=0, quick=True, show_progress=False)
