"""``gramian doctor``: what this installation has, and the one command that brings what is missing."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context) -> None:
    """Show versions, threads, processor, folders, data and missing extras; exit code 1 if something is broken."""
    from gramian.atlas.doctor import examine
    from gramian.cli.console import print_table

    findings = examine(ctx.obj)
    print_table(("", "what", "found", "to mend"), [[f.mark, f.what, f.found, f.mend] for f in findings])
    if any(f.mark == "✗" for f in findings):
        raise typer.Exit(1)
