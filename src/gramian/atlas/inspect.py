"""Look inside a model and write what was found: a report with pictures, and the same as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gramian.atlas.errors import UserError
from gramian.atlas.measure import machine
from gramian.atlas.measure.store import now

if TYPE_CHECKING:
    from gramian.analysis.inspection.report import Inspection


def inspect(
    what: str,
    folder: Path,
    *,
    data: str | None = None,
    run: bool = True,
    fisher: bool = True,
    tokens: int = 4096,
    factory: str | None = None,
) -> tuple[Inspection, Path]:
    """Inspect the model that `what` names and write ``report.html`` and ``inspect.json`` into `folder`.

    Args:
        data: the user's text or pictures; bundled ones without it.
        run: False looks at the weights alone.
        fisher: also the Fisher mass, where the model has a loss of its own.
        tokens: how many tokens of a text to read.
        factory: builds the network of a file of weights.

    Raises:
        UserError: no such model or data, or the folder cannot be written.
    """
    from gramian.analysis.inspection.report import inspect_model
    from gramian.atlas.pages.inspection import write_inspection
    from gramian.models.example_inputs import example_inputs
    from gramian.models.opening import open_model

    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open_model(what, factory)
        inputs = None
        if run and opened.runs and opened.reads != "unknown":
            inputs = example_inputs(opened, data, tokens=tokens)
        elif data:
            raise ValueError(f"{what} cannot be run on data: what it reads is not known, or it is weights alone")
        found = inspect_model(opened, inputs, fisher=fisher)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    found.made = {"versions": machine.versions(), "machine": machine.processor(), "measured": now()}
    found.write(folder / "inspect.json")
    return found, write_inspection(found, folder)
