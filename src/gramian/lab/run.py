"""The run of one experiment: what the experiment is given, and what it leaves behind."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gramian.lab import figures
from gramian.lab.check import Check
from gramian.lab.progress import progress_bar

if TYPE_CHECKING:
    import numpy
    import pandas
    import torch
    from matplotlib.figure import Figure

T = TypeVar("T")


class Missing(RuntimeError):
    """Something that a command can bring is not here: an extra, a data set, a weight file.

    The message names the one command that brings it. A run that meets it ends as ``skipped``.
    """


class Run:
    """One run of an experiment.

    Args:
        out: the folder that receives everything; ``metrics.json`` in it is rewritten at each check,
            so that a run ended midway leaves what it measured so far.
        seed: the seed that everything random comes from.
        device: torch device, by name.
        quick: True for the profile of seconds, False for the profile of minutes.
        show_progress: whether to draw progress bars; by default only on a terminal.

    Attributes:
        checks: the checks so far.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        seed: int = 0,
        device: str = "cpu",
        quick: bool = True,
        show_progress: bool | None = None,
    ) -> None:
        self.out = Path(out)
        self.seed = int(seed)
        self.device = device
        self.quick = quick
        self.show_progress = show_progress
        self.checks: list[Check] = []
        self.parts: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self._started = time.perf_counter()

    # what the experiment is given

    def generator(self, stream: int = 0) -> torch.Generator:
        """A torch generator on the CPU; one seed and one stream always give the same numbers."""
        import torch

        return torch.Generator().manual_seed(self.seed * 1_000_003 + stream)

    def rng(self, stream: int = 0) -> numpy.random.Generator:
        """The same for numpy."""
        import numpy

        return numpy.random.default_rng([self.seed, stream])

    def progress(self, iterable: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
        """Iterate under a progress bar named `what`."""
        return progress_bar(iterable, what, total=total, show=self.show_progress)

    # what it leaves behind

    def log(self, **metrics: float | int | str) -> None:
        """Record figures at this moment; the elapsed seconds are added."""
        self.logs.append({"seconds": round(time.perf_counter() - self._started, 3), **metrics})

    def check(
        self,
        claim: str,
        measured: Any,
        *,
        below: float | None = None,
        above: float | None = None,
        between: tuple[float, float] | None = None,
        equals: Any = None,
        paper: str | None = None,
    ) -> bool:
        """Record whether `measured` respects exactly one bound (inclusive), and what the paper says.

        A check must be able to fail: compare with an independent oracle, a closed form, a count in the
        paper, or a baseline. A false check ends the run as ``failed``, but does not stop it.
        """
        check = Check.of(claim, measured, below=below, above=above, between=between, equals=equals, paper=paper)
        self.checks.append(check)
        self.write()
        return check.ok

    def plot(self, name: str, figure: Figure, caption: str = "") -> None:
        """Keep a matplotlib figure (drawn in this run's style), as SVG and PNG, and close it."""
        from matplotlib import pyplot

        name = _file_name(name)
        figures.save(figure, self.out / "figures", name, salt=f"{self.out.parent.name}-{name}")
        pyplot.close(figure)
        self._add({"type": "figure", "name": name, "caption": caption})

    def table(self, name: str, frame: pandas.DataFrame | list[dict[str, Any]], caption: str = "") -> None:
        """Keep a table: a data frame, or a list of rows."""
        import pandas

        frame = frame if isinstance(frame, pandas.DataFrame) else pandas.DataFrame(frame)
        if frame.index.name or not isinstance(frame.index, pandas.RangeIndex):
            frame = frame.reset_index()
        columns = [str(c) for c in frame.columns]
        rows = json.loads(frame.to_json(orient="values", double_precision=10))
        self._add({"type": "table", "name": name, "caption": caption, "columns": columns, "rows": rows})

    def text(self, name: str, text: str) -> None:
        """Keep a paragraph: something found, in words."""
        self._add({"type": "text", "name": name, "text": text})

    def save(self, name: str, model: Any) -> Path:
        """Save a module's state (or a dictionary of tensors) as safetensors; returns the file."""
        from safetensors.torch import save_file

        tensors = model if isinstance(model, dict) else model.state_dict()
        path = self.out / "models" / f"{_file_name(name)}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)
        self._add({"type": "model", "name": name, "file": str(path.relative_to(self.out))})
        return path

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed, "device": self.device, "profile": "quick" if self.quick else "full",
            "checks": [c.as_dict() for c in self.checks], "parts": self.parts, "logs": self.logs,
        }  # fmt: skip

    def write(self) -> None:
        """Write ``metrics.json``, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        temporary = self.out / ".metrics.json.part"
        temporary.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(self.out / "metrics.json")

    def _add(self, part: dict[str, Any]) -> None:
        self.parts = [p for p in self.parts if (p["type"], p["name"]) != (part["type"], part["name"])] + [part]
        self.write()


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed"
