"""Find the tasks by name; the module of one is imported only to run it."""

from __future__ import annotations

import ast
from types import ModuleType

from gramian.atlas.errors import UserError
from gramian.atlas.find.cards import PACKAGE
from gramian.atlas.find.names import resolve

_SUPPORT = ("contract", "persistence")


def tasks() -> dict[str, str]:
    """Each task's name and the first line of its docstring, read without importing."""
    found = {}
    for file in sorted((PACKAGE / "tasks").glob("*.py")):
        if file.stem[0] != "_" and file.stem not in _SUPPORT:
            doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or file.stem
            found[file.stem.replace("_", "-")] = doc.splitlines()[0]
    return found


def task(name: str) -> ModuleType:
    """The module of a task; raises `UserError` with a suggestion."""
    from importlib import import_module

    chosen = resolve(name, tasks(), "task", "gramian compare --list")
    return import_module(f"gramian.tasks.{chosen.replace('-', '_')}")


def method_names(module: ModuleType, wanted: list[str] | None = None) -> list[str]:
    """The methods and baselines of a task, or those of them that are wanted."""
    known = {**module.METHODS, **module.BASELINES}
    return (
        [resolve(w, known, "method of this task", "gramian compare --list") for w in wanted] if wanted else list(known)
    )


def load_problem(module: ModuleType, data: str | None, target: str | None, **more: object):
    """The task's problem from a named set or the user's file; its errors become the user's to mend."""
    try:
        return module.load(data or module.DEFAULT, target=target, **more)
    except ValueError as error:
        raise UserError(str(error)) from None
