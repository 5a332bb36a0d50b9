"""``gramian data``: list, show, fetch and add data sets."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Real data sets and weight files by name.", no_args_is_help=True)


@app.command("list")
def list_(
    words: Annotated[list[str] | None, typer.Argument(help="only entries that contain all these words")] = None,
    here: Annotated[bool, typer.Option("--here", help="only what is on this machine")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Every data set: whether it is here, its name, shape and subject."""
    from gramian import data
    from gramian.data.store import is_here

    rows = []
    for entry in data.CATALOGUE.values():
        text = f"{entry.name} {entry.what} {entry.source} {entry.kind} {entry.shape}".lower()
        there = is_here(entry.name)
        if all(w.lower() in text for w in words or ()) and (there or not here):
            rows.append(
                {"name": entry.name, "here": there, "shape": entry.shape, "what": entry.what, "source": entry.source}
            )
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    name_width = max((len(r["name"]) for r in rows), default=0)
    for r in rows:
        typer.echo(f"{'●' if r['here'] else '○'} {r['name']:<{name_width}}  {r['what']} ({r['shape']})")
    count = sum(r["here"] for r in rows)
    typer.echo(f"{len(rows)} sets, {count} here (●). `gramian data fetch NAME…` brings the others.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="a data set")]) -> None:
    """All that the catalogue knows about one data set."""
    from gramian import data
    from gramian.data.store import is_here, root

    entry = _or_exit(data.entry, name)
    licence = entry.licence or (entry.wheel.licence if entry.wheel else "")
    here = is_here(entry.name)
    lines = {
        "subject": entry.what,
        "shape": entry.shape,
        "source": entry.source,
        "files": ", ".join(entry.files),
        "licence": licence,
        "sha256": entry.sha256,
        "here": str(data.path(entry.name)) if here else f"no; its place would be {root() / entry.name}",
        "open": f"gramian.data.load({entry.name!r})",
    }
    typer.echo(entry.name)
    for key, value in lines.items():
        if value:
            typer.echo(f"  {key:<8} {value}")


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="data sets, or papers with --for")] = None,
    papers: Annotated[bool, typer.Option("--for", help="NAMES are papers: fetch what their experiments read")] = False,
    all_: Annotated[bool, typer.Option("--all", help="the whole catalogue (about 250 MB to download)")] = False,
    tests: Annotated[bool, typer.Option("--tests", help="what the demonstration and the tests use")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing unless something fails")] = False,
) -> None:
    """Download data sets; those that are here already cost nothing."""
    from gramian import data

    if papers:
        from gramian.atlas.find.cards import Shelf

        chosen = Shelf().choose(tuple(names or ()))
        names = list(dict.fromkeys(name for paper in chosen for name in paper.card.data))
    wanted = [*(names or ()), *(data.TEST_SETS if tests else ()), *(data.names() if all_ else ())]
    if not wanted and not papers:
        raise typer.BadParameter("name at least one data set, or give --tests or --all; `gramian data list` shows them")
    brought = _or_exit(data.fetch, *wanted, quiet=quiet)
    if not quiet:
        typer.echo(f"fetched {len(brought)}: {', '.join(brought)}" if brought else "everything is here already")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="a public data set, such as etth1")],
    files: Annotated[list[Path], typer.Argument(help="local copies of its files")],
) -> None:
    """Take a local copy of a public data set; its hash must be the catalogue's."""
    from gramian import data

    typer.echo(f"added {_or_exit(data.add, name, *files)}")


def _or_exit(function, *arguments, **options):
    """Call; an error that is the user's or the network's ends the command with its message, not with a traceback."""
    from gramian.atlas.errors import UserError
    from gramian.lab import Missing

    try:
        return function(*arguments, **options)
    except (Missing, ValueError, OSError) as error:
        raise UserError(str(error)) from None
