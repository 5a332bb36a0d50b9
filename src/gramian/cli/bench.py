"""``gramian bench``: our hot functions against their peers."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    names: list[str] = typer.Argument(None, help="Benchmarks; all when none is named."),
    out: str = typer.Option("benchmarks/results", help="Folder for the JSON and the pictures."),
    only_list: bool = typer.Option(False, "--list", help="Only list the benchmarks."),
) -> None:
    """Time our hot functions against their peers, alternating, and print ratios with their spread."""
    from gramian.atlas import bench as harness

    known = harness.list_benchmarks()
    if only_list:
        for name in known:
            typer.echo(name)
        return
    from gramian.atlas.find.names import resolve

    for name in names or known:
        harness.run_benchmark(resolve(name, known, "benchmark", "gramian bench --list"), Path(out))
