"""``gramian inspect``: look inside a model."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command("inspect")(inspect)


def inspect(
    ctx: typer.Context,
    model: str = typer.Argument(
        help="A bundled network (smollm2-135m, all-minilm-l6-v2, efficientnet-lite0), a Hugging Face folder, "
        "or a file of weights (.safetensors, .pt)."
    ),
    data: str = typer.Option("", help="Text or pictures of yours to run it on; bundled ones without it."),
    weights_only: bool = typer.Option(False, "--weights-only", help="Look at the matrices and run nothing."),
    no_fisher: bool = typer.Option(False, "--no-fisher", help="Leave out the Fisher mass, the slowest part."),
    tokens: int = typer.Option(4096, min=2, help="How many tokens of a text to read at most."),
    factory: str = typer.Option(
        "", help="For a file of weights: package.module:function or file.py:function that builds the network."
    ),
    out: str = typer.Option("", help="Folder for the report; by default under the home folder."),
) -> None:
    r"""Look inside a model: every matrix's spectrum, what flows into it, and which matrices its loss feels.

    \b
    Writes report.html (pictures first, a table under them) and inspect.json.
    A file of weights without --factory can be looked at, but not run.
    """
    from rich.console import Console

    from gramian.atlas.inspect import inspect as inspecting
    from gramian.atlas.measure.home import new_run_folder, open_home
    from gramian.cli.console import interruptible

    folder = Path(out) if out else new_run_folder(open_home(ctx.obj), "inspect")
    with interruptible("nothing was written"):
        found, report = inspecting(
            model, folder, data=data or None, run=not weights_only, fisher=not no_fisher, tokens=tokens,
            factory=factory or None,
        )  # fmt: skip
    console = Console()
    for name, value in found.facts.items():
        console.print(f"{name}: {value}", highlight=False)
    for line in found.findings:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)
