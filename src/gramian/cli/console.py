"""What the verbs share on the terminal: tables as wide as it is (whole when piped), and the end at Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gramian.atlas.measure.store import Result

COLOURS = {"ok": "green", "failed": "red", "error": "red", "timeout": "red", "killed": "red", "skipped": "yellow"}


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], style_column: str | None = None, title: str | None = None
) -> None:
    """Print rows under columns; the words of `style_column` are coloured as statuses."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    styled = list(columns).index(style_column) if style_column else -1
    for row in rows:
        table.add_row(*(Text(v, style=COLOURS.get(v, "") if i == styled else "") for i, v in enumerate(row)))
    console.print(table)


def print_checks(result: Result) -> None:
    """Print how a row ended: its checks, or the reason."""
    from rich.console import Console
    from rich.markup import escape

    from gramian.atlas.pages.text import figure

    console = Console()
    if result.checks:
        rows = [["✓" if c["ok"] else "✗", c["claim"], figure(c["measured"]), c["bound"]] for c in result.checks]
        print_table(("", "what was measured", "figure", "bound"), rows)
    if result.reason:
        console.print(escape(result.reason), highlight=False, soft_wrap=True)
    colour = COLOURS.get(result.status, "")
    console.print(f"[{colour}]{result.status}[/{colour}] in {result.seconds:.1f} s\n", highlight=False)


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """End with exit code 130 at Ctrl-C, and say what was kept."""
    import typer

    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\ninterrupted; {kept}", err=True)
        raise typer.Exit(130) from None
