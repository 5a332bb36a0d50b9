"""``gramian list``, ``search`` and ``show``: read the cards, import no paper."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from gramian.atlas.measure.store import Result


def register(app: typer.Typer) -> None:
    app.command("list")(list_papers)
    app.command("search")(search)
    app.command("show")(show)


def _folder(home: str | None) -> Path:
    from gramian.atlas.measure.home import default_home

    return Path(home) if home else default_home()


def _statuses(home: str | None, slugs: Iterable[str]) -> dict[str, str]:
    """Each row's last status: this user's runs first, the committed evidence else."""
    from gramian.atlas.measure.store import Store
    from gramian.atlas.pages import evidence

    found = {slug: evidence.status(slug) for slug in slugs}
    if (_folder(home) / "evidence.sqlite").exists():
        found |= {s: r.status for s, r in Store(_folder(home)).latest().items() if s in found}
    return found


def list_papers(
    ctx: typer.Context,
    topic: str = typer.Option("", help="Only this topic."),
    kind: str = typer.Option("", help="Only this kind: method, architecture, estimator, theory, survey or dataset."),
    status: str = typer.Option("", help="Only this status: ok, failed, error, timeout, killed, skipped or none."),
    planned: bool = typer.Option(False, "--planned", help="The whole collection, papers not built yet included."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """List the papers: row, name, year, kind, topic, status."""
    from gramian.atlas.errors import UserError
    from gramian.atlas.find import cards
    from gramian.atlas.find.names import resolve
    from gramian.atlas.measure.store import STATUSES
    from gramian.lab.card import KINDS

    shelf = cards.Shelf()
    statuses = _statuses(ctx.obj, shelf.papers)
    rows: list[dict[str, Any]] = [
        {
            "row": c.row,
            "slug": c.slug,
            "title": c.title,
            "year": c.year,
            "kind": c.kind,
            "topic": c.topic,
            "status": statuses[c.slug],
        }
        for c in (p.card for p in shelf.papers.values())
    ]
    if planned:
        waiting = [r for r in cards.planned() if r["slug"] not in shelf.papers]
        rows += [
            {"row": int(r["row"]), "slug": r["slug"], "title": r["title"], "year": int(r["year"] or 0), "kind": "",
             "topic": r["topic"], "status": "not yet"} for r in waiting
        ]  # fmt: skip
        rows.sort(key=lambda r: r["row"])
    for name, value, known in (("topic", topic, {r["topic"] for r in rows}), ("kind", kind, KINDS),
                               ("status", status, (*STATUSES, "none", "not yet"))):  # fmt: skip
        if value:
            chosen = resolve(value, known, name, "gramian list")
            rows = [r for r in rows if r[name] == chosen]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not rows:
        raise UserError("no paper fits these filters; `gramian list` without them lists all")
    from gramian.cli.console import print_table

    columns = ("row", "slug", "title", "year", "kind", "topic", "status")
    print_table(columns, [[str(r[c]) for c in columns] for r in rows], style_column="status")


def search(
    query: list[str] = typer.Argument(..., help='What you want, such as "forget data without retraining".'),
    limit: int = typer.Option(10, min=1, help="How many to show."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Find papers by what they do (BM25 over titles, ideas, claims, keywords and API)."""
    from gramian.atlas.errors import UserError
    from gramian.atlas.find import cards
    from gramian.atlas.find.search import rank
    from gramian.cli.console import print_table

    shelf = cards.Shelf()
    waiting = [cards.planned_card(r) for r in cards.planned() if r["slug"] not in shelf.papers]
    ranked = rank(" ".join(query), [*(p.card for p in shelf.papers.values()), *waiting])[:limit]
    if as_json:
        rows = [
            {"slug": c.slug, "row": c.row, "title": c.title, "score": round(s, 3), "built": c.slug in shelf.papers}
            for c, s in ranked
        ]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not ranked:
        raise UserError(f"nothing matches {' '.join(query)!r}; try fewer or other words, or `gramian list`")
    print_table(
        ("slug", "what it does", "score"),
        [[c.slug, c.idea if c.slug in shelf.papers else f"{c.title} (not built yet)", f"{s:.1f}"] for c, s in ranked],
    )


def show(ctx: typer.Context, name: str = typer.Argument(help="A paper's name, as in `gramian list`.")) -> None:
    """Show a paper: the card, its API with signatures, the last evidence, and how to use it."""
    from rich.console import Console
    from rich.markup import escape

    from gramian.atlas.find import sources
    from gramian.atlas.find.cards import Shelf
    from gramian.atlas.find.taxonomies import outline, read_taxonomy
    from gramian.atlas.pages import evidence
    from gramian.atlas.pages.text import figure, import_lines
    from gramian.cli.console import print_table

    paper = Shelf().paper(name)
    card = paper.card
    console = Console(soft_wrap=False)
    console.print(f"[bold]{escape(card.title)}[/bold]", highlight=False)
    source = f"arXiv {card.arxiv}" if card.arxiv else (f"doi {card.doi}" if card.doi else "")
    console.print(
        f"[dim]row {card.row} · {card.slug} · {card.year} · {card.kind} · {card.topic} · {source}[/dim]",
        highlight=False,
    )
    console.print(f"\n{escape(card.idea)}", highlight=False)
    if card.claim:
        console.print(f"\n[bold]Claim[/bold]  {escape(card.claim)}", highlight=False)
    if card.reach:
        console.print(f"[bold]Out of reach here[/bold]  {escape(card.reach)}", highlight=False)
    if card.api:
        console.print("\n[bold]API[/bold]")
        for dotted in card.api:
            entry = sources.signature(dotted)
            console.print(
                f"  [cyan]{escape(dotted)}[/cyan]\n    {escape(entry.text)}\n    [dim]{escape(entry.summary)}[/dim]",
                highlight=False,
            )
    if card.use:
        code = (import_lines(card) + card.use).replace("\n", "\n  ")
        console.print(f"\n[bold]Use it[/bold]\n  {escape(code)}", highlight=False)
    options = sources.experiment_options(paper.path)
    if options:
        console.print("\n[bold]Options of the experiment[/bold]  (gramian run … --set name=value)")
        for text, meaning in options:
            console.print(f"  {escape(text)}  [dim]{escape(meaning)}[/dim]", highlight=False)
    taxonomy = read_taxonomy(paper.path)
    if taxonomy is not None:
        console.print("\n[bold]Taxonomy[/bold]")
        for line in outline(taxonomy):
            console.print(f"  {escape(line.replace('**', '').replace('`', ''))}", highlight=False)
    for line in card.differs:
        console.print(f"\n[bold]Differs[/bold]  {escape(line)}", highlight=False)
    found = (
        _last_evidence(ctx.obj, card.slug) or evidence.as_result(paper, "full") or evidence.as_result(paper, "quick")
    )
    if found is None:
        console.print(f"\n[dim]No evidence yet: gramian run {card.slug}[/dim]")
        return
    console.print(
        f"\n[bold]Last evidence[/bold]  {found.status}, {found.profile} profile, {found.seconds:.1f} s, "
        f"{found.started}",
        highlight=False,
    )
    print_table(
        ("", "what was measured", "figure", "bound"),
        [["✓" if c["ok"] else "✗", c["claim"], figure(c["measured"]), c["bound"]] for c in found.checks],
    )


def _last_evidence(home: str | None, slug: str) -> Result | None:
    from gramian.atlas.measure.store import Store

    folder = _folder(home)
    history = Store(folder).history(slug) if (folder / "evidence.sqlite").exists() else []
    return history[-1] if history else None
