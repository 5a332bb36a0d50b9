"""The front door: one file a verb, each thin.

Heavy imports happen inside the verbs, so that ``list`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from gramian.cli import apply, bench, catalogue, compare, data, doctor, inspect, report, run, verify

HELP = """\b
The matrices of neural networks: every paper's method runs, and every claim is measured.

\b
Begin with:  gramian list  ·  gramian search "long sequences"  ·  gramian show s4d  ·  gramian run s4d

\b
On your own data:  gramian compare classify-series --data mine.csv
                   gramian apply classify-series s4d --data mine.csv --out model
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from gramian import __version__

        typer.echo(f"gramian {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: str = typer.Option("", "--home", help="Folder of the evidence store and the runs (or GRAMIAN_HOME)."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    ctx.obj = home or None


for module in (catalogue, run, verify, compare, apply, inspect, doctor, report, bench):
    module.register(app)


app.add_typer(data.app, name="data")


def main() -> None:
    """The entry point: errors that are the user's to mend are one red line and exit code 2."""
    from gramian.atlas.errors import UserError
    from gramian.lab import Missing

    try:
        app()
    except (UserError, Missing) as error:
        from rich.console import Console

        Console(stderr=True).print(f"[red]gramian:[/red] {error}", highlight=False, markup=True, soft_wrap=True)
        sys.exit(2)
