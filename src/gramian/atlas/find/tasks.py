"""Find the tasks by name; the module of one is imported only to run it."""

from __future__ import annotations

import ast
from types import ModuleType

from gramian.atlas.errors import UserError
from gramian.atlas.find.cards import PACKAGE
from gramian.atlas.find.names import resolve


def tasks() -> dict[str, str]:
    """Each task's name and the first line of its docstring, read without importing."""
    found = {}
    for file in sorted((PACKAGE / "tasks").glob("*.py")):
        if file.stem[0] != "_":
            doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem
            found[file.stem.replace("_", "-")] = doc.splitlines()[0]
    return found


def task(name: str) -> ModuleType:
    """The module of a task; raises `UserError` with a suggestion."""
    from importlib import import_module

    chosen = resolve(name, tasks(), "task", "gramian compare --list")
    return import_module(f"gramian.tasks.{chosen.replace('-', '_')}")


def measures(module: ModuleType, problem: object) -> tuple[str, dict[str, str]]:
    """The leading figure of quality and which way each one is better: the problem's own, or the task's."""
    headline = getattr(problem, "headline", "")
    return (headline, problem.metrics) if headline else (module.HEADLINE, module.METRICS)  # type: ignore[attr-defined]


def option_lines(module: ModuleType) -> list[str]:
    """The task's options with their defaults, as a person sets them."""
    import inspect

    found = inspect.signature(module.load).parameters.values()
    return [f"{p.name}={p.default}" for p in found if p.kind == p.KEYWORD_ONLY and p.name != "labelled"]


def method_names(module: ModuleType, wanted: list[str] | None = None) -> list[str]:
    """The methods and baselines of a task, or those of them that are wanted."""
    known = {**module.METHODS, **module.BASELINES}
    return (
        [resolve(w, known, "method of this task", "gramian compare --list") for w in wanted] if wanted else list(known)
    )


def load_problem(
    module: ModuleType, data: str | None, target: str | None, settings: list[str] | None = None, **more: object
):
    """The task's problem from a named set or the user's file; its errors become the user's to mend.

    Args:
        settings: the task's options as ``name=value``: keyword arguments of its ``load``.
    """
    from gramian.atlas.find.options import convert

    leave = ("target", "labelled")
    options = convert(module.load, settings or [], leave=leave, see="gramian compare TASK --help")
    try:
        return module.load(data or module.DEFAULT, target=target, **options, **more)
    except ValueError as error:
        raise UserError(str(error)) from None
