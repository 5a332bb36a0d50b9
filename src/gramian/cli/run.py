"""``gramian run``: measure papers here, with progress, and write their report."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    ctx: typer.Context,
    names: list[str] = typer.Argument(help="Papers, as in `gramian list`."),
    full: bool = typer.Option(False, "--full", help="The profile of minutes, not of seconds."),
    seed: int = typer.Option(0, min=0, help="Everything random comes from it."),
    device: str = typer.Option("cpu", help="A torch device: cpu, cuda, cuda:1, mps."),
    settings: list[str] = typer.Option(
        [], "--set", metavar="NAME=VALUE", help="An option of the experiment; `gramian show` lists them."
    ),
    out: str = typer.Option("", help="Folder for the report; by default under the home folder."),
) -> None:
    """Run the experiments of papers on this machine and write a report.

    Each claim is measured and compared with a bound; the exit code is 1 if a check does not hold.
    """
    from rich.console import Console

    from gramian.atlas.find.cards import Shelf
    from gramian.atlas.measure.devices import check_device
    from gramian.atlas.measure.execute import run_paper
    from gramian.atlas.measure.home import new_run_folder, open_home
    from gramian.atlas.measure.store import Store
    from gramian.atlas.pages.report import write_report
    from gramian.cli.console import interruptible, print_checks
    from gramian.lab import Run

    shelf = Shelf()
    papers = list({p.card.slug: p for p in map(shelf.paper, names)}.values())
    home = open_home(ctx.obj)
    store = Store(home)
    check_device(device)
    console = Console()
    rows = []
    for paper in papers:
        folder = (
            Path(out) / paper.card.slug
            if out and len(papers) > 1
            else Path(out)
            if out
            else new_run_folder(home, paper.card.slug)
        )
        folder.mkdir(parents=True, exist_ok=True)
        console.print(f"[bold]{paper.card.slug}[/bold]  {paper.card.title}", highlight=False)
        with interruptible(f"what was measured is in {folder}/metrics.json"):
            result = run_paper(paper, Run(folder, seed=seed, device=device, quick=not full), settings)
        store.record(result)
        print_checks(result)
        rows.append((paper.card, result))
    report = Path(rows[0][1].folder or "") / "report.html"
    if len(rows) > 1:
        report = write_report(rows, (Path(out) if out else new_run_folder(home, "_several")) / "report.html")
    console.print(f"report: {report}", soft_wrap=True, highlight=False)
    if any(result.status != "ok" for _, result in rows):
        raise typer.Exit(1)
