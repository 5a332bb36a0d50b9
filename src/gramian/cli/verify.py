"""``gramian verify``: measure the atlas, each row in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    ctx: typer.Context,
    names: list[str] = typer.Argument(None, help="Papers; all of them when none and no topic is named."),
    topic: list[str] = typer.Option([], help="All papers of a topic; can be given several times."),
    full: bool = typer.Option(
        False, "--full/--quick", help="At most 2 minutes a row on all cores, or 10 s on one thread."
    ),
    jobs: int = typer.Option(0, "-j", "--jobs", min=0, help="Rows at a time; 0 chooses."),
    changed: bool = typer.Option(
        False, "--changed", help="Only rows whose code differs from that of the committed evidence."
    ),
    as_json: str = typer.Option(
        "", "--json", metavar="PATH", help="Write the results as JSON; `-` for standard output."
    ),
    resume: bool = typer.Option(False, "--resume", help="Go on with the last run where it was ended."),
    seed: int = typer.Option(0, min=0),
    device: str = typer.Option("cpu"),
    backend: str = typer.Option("threading", help="threading, or dask or ray for a cluster on a shared file system."),
) -> None:
    """Verify the papers' claims; exit code 1 if any row is not ok.

    A row that fails, hangs or eats the memory is a line of the result, never the end of the run.
    Everything is recorded as it ends: after Ctrl-C or a crash, `--resume` goes on.
    """
    from rich.console import Console
    from rich.markup import escape

    from gramian.atlas.find.cards import Shelf
    from gramian.atlas.measure.home import new_run_folder, open_home
    from gramian.atlas.measure.store import Result
    from gramian.atlas.measure.verify import profile_budget
    from gramian.atlas.measure.verify import verify as run_all
    from gramian.atlas.pages import evidence
    from gramian.atlas.pages.report import write_report
    from gramian.cli.console import COLOURS, interruptible

    console = Console(stderr=as_json == "-")
    shelf = Shelf()
    papers = shelf.choose(tuple(names or ()), tuple(topic))
    budget = profile_budget(full)
    if changed:
        papers = evidence.changed(papers, budget.name)
        if not papers:
            console.print("nothing changed: the committed evidence holds for every row")
            return
    home = open_home(ctx.obj)
    console.print(f"{len(papers)} rows, {budget.name} profile", highlight=False)
    ended = 0

    def show(result: Result) -> None:
        nonlocal ended
        ended += 1
        colour = COLOURS[result.status]
        held = f"{sum(c['ok'] for c in result.checks)}/{len(result.checks)} checks"
        place = f"[{ended}/{len(papers)}] [{colour}]{result.status:8}[/{colour}] {result.slug:28}"
        cost = f"{result.seconds:6.1f} s {result.peak_mb or 0:6.0f} MiB"
        console.print(f"{place} {held:14} {cost}", highlight=False)
        if result.status != "ok":
            broken = [f"  ✗ {c['claim']}: {c['measured']}, bound {c['bound']}" for c in result.checks if not c["ok"]]
            for line in broken + ([f"  {result.reason}"] if result.reason else []):
                console.print(escape(line), highlight=False, soft_wrap=True)

    with interruptible("the evidence so far is kept, and `gramian verify --resume` goes on"):
        results = run_all(
            papers, home, budget=budget, jobs=jobs or None, seed=seed, device=device, backend=backend, resume=resume,
            on_result=show,
        )  # fmt: skip
    if as_json:
        text = json.dumps([r.as_row() for r in results], indent=1, ensure_ascii=False)
        if as_json == "-":
            typer.echo(text)
        else:
            Path(as_json).write_text(text + "\n", encoding="utf-8")
    report = write_report(
        [(shelf.papers[r.slug].card, r) for r in results], new_run_folder(home, "_verify") / "report.html"
    )
    ok = sum(r.status == "ok" for r in results)
    console.print(f"{ok} of {len(results)} rows ok; report: {report}", highlight=False, soft_wrap=True)
    if ok < len(results):
        raise typer.Exit(1)
