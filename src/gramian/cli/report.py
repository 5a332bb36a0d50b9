"""``gramian report`` and ``gramian site``: evidence as pages."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command("report")(report)
    app.command("site")(site)


def report(
    ctx: typer.Context,
    names: list[str] = typer.Argument(None, help="Papers; all when none is named."),
    export: bool = typer.Option(
        False, "--export", help="Write evidence/<slug>.json, its figures and the README's table."
    ),
    out: str = typer.Option("gramian-report.html", help="The page to write."),
) -> None:
    """Write one page of the latest evidence, or export it into the repository."""
    from gramian.atlas.errors import UserError
    from gramian.atlas.find.cards import Shelf
    from gramian.atlas.measure.home import open_home
    from gramian.atlas.measure.store import Store
    from gramian.atlas.pages import evidence
    from gramian.atlas.pages.report import write_report

    shelf = Shelf()
    papers = shelf.choose(tuple(names or ()))
    store = Store(open_home(ctx.obj))
    if export:
        for line in evidence.export(papers, store):
            typer.echo(f"exported {line}")
        typer.echo("README.md: table rewritten" if evidence.write_readme(shelf) else "README.md: table unchanged")
        return
    latest = store.latest()
    rows = [
        (p.card, latest.get(p.card.slug) or evidence.as_result(p, "full") or evidence.as_result(p, "quick"))
        for p in papers
    ]
    have = [(card, result) for card, result in rows if result is not None]
    if not have:
        raise UserError("no evidence yet for these papers: `gramian run NAME` or `gramian verify` makes some")
    typer.echo(f"report: {write_report(have, Path(out))}")


def site(
    out: str = typer.Option("site", help="Folder for the pages."),
    strict: bool = typer.Option(True, help="Fail on a broken link or reference."),
) -> None:
    """Build the site: a page a paper, by topic and by task, with search; opens without a network."""
    from gramian.atlas.pages.site import build

    typer.echo(f"site: {build(Path(out), strict=strict) / 'index.html'}")
