"""What several tests share."""

from collections.abc import Callable
from pathlib import Path

from gramian.atlas.measure.execute import outcome
from gramian.lab import Run


def status_of(
    part: Callable[..., None], folder: Path, *, quick: bool = True, seed: int = 0, **options
) -> tuple[str, Run]:
    """Run one part of an experiment as the atlas would; returns the row's status and the run.

    With a stub in a method's place the status must be ``failed`` (a check is false), not ``error``.
    """
    run = Run(folder / "run", seed=seed, quick=quick, show_progress=False)
    status, _ = outcome(part, run, **options)
    return status, run


def failed_claims(part: Callable[..., None], folder: Path, **options) -> list[str]:
    """The claims that do not hold when a part of an experiment runs; it must end `failed`, not `error`."""
    status, run = status_of(part, folder, **options)
    assert status == "failed"
    return [check.claim for check in run.checks if not check.ok]
