"""Progress bars: one look for downloads, training and experiments; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress_bar(
    iterable: Iterable[T], what: str, *, total: float | None = None, show: bool | None = None
) -> Iterator[T]:
    """Iterate over `iterable` under a progress bar on standard error.

    Args:
        what: what is being done, such as ``"training S4D"``.
        total: number of items, where `iterable` has no length.
        show: whether to draw; by default only when standard error is a terminal.
    """
    if show is None:
        show = sys.stderr.isatty()
    if not show:
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield from bar.track(iterable, description=what, total=total)
