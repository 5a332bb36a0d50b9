"""Every test runs with shapes and types checked: jaxtyping's import hook with beartype over the whole package."""

import os
import random

os.environ.setdefault("MPLBACKEND", "Agg")

if not os.environ.get("GRAMIAN_TESTS_UNHOOKED"):
    from jaxtyping import install_import_hook

    install_import_hook("gramian", "typecheck.check").__enter__()

import hypothesis
import numpy
import pytest
import torch

from gramian.lab import Run

# the same examples in every run: a failure is a change in the code, not luck
hypothesis.settings.register_profile("gramian", derandomize=True, deadline=None, print_blob=False)
hypothesis.settings.load_profile("gramian")


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """Networks that a test builds without a generator start alike, whichever tests ran before in the process."""
    torch.manual_seed(0)
    numpy.random.seed(0)  # noqa: NPY002 - what reads the old global state
    random.seed(0)


@pytest.fixture
def quick_run(tmp_path) -> Run:
    """A quick run with seed 0 that leaves what it measures in a temporary folder."""
    return Run(tmp_path / "run", seed=0, quick=True, show_progress=False)
