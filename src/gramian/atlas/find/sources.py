"""Read the source without importing it: which files a paper reaches, their hash, and signatures of the API."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gramian.atlas.find.cards import PACKAGE

_UNCOUNTED = ("gramian.lab.progress",)
"""Modules that cannot change a figure."""


def _module_file(dotted: str) -> Path | None:
    base = PACKAGE.parent.joinpath(*dotted.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of ours that a file imports, at its top or inside its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return frozenset(n for n in found if n.split(".")[0] == "gramian" and n not in _UNCOUNTED and _module_file(n))


def reached(path: Path) -> list[Path]:
    """`path` and every file of the package that it imports, directly or through others, sorted.

    The ``__init__`` files on the way are reached too: importing a module runs them.
    """
    todo, seen = [path], {path}
    while todo:
        for dotted in _imports(todo.pop()):
            parts = dotted.split(".")
            for n in range(2, len(parts) + 1):
                file = _module_file(".".join(parts[:n]))
                if file is not None and file not in seen:
                    seen.add(file)
                    todo.append(file)
    return sorted(seen)


def sources_hash(path: Path) -> str:
    """A hash of the code that `path` reaches: what decides whether its evidence still holds.

    Comments and layout do not count; docstrings do.
    """
    digest = hashlib.sha256()
    for file in reached(path):
        name = file.relative_to(PACKAGE.parent) if file.is_relative_to(PACKAGE.parent) else file.name
        digest.update(f"{name}\n{_syntax(file)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _syntax(file: Path) -> str:
    return ast.dump(ast.parse(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Signature:
    """An entry of the API as its source shows it."""

    dotted: str
    text: str
    summary: str
    file: Path
    line: int


def signature(dotted: str) -> Signature:
    """The signature and first docstring line of ``package.module.name`` or ``package.module.Class.method``.

    Raises:
        LookupError: the module or the name does not exist.
    """
    parts = dotted.split(".")
    for n in range(len(parts) - 1, 0, -1):
        file = _module_file(".".join(parts[:n]))
        if file is not None:
            break
    else:
        raise LookupError(f"{dotted}: no module of this name")
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    node: ast.AST | None = None
    for name in parts[n:]:
        node = next((s for s in body if getattr(s, "name", None) == name), None)
        if node is None:
            raise LookupError(f"{dotted}: {file.name} defines no {name}")
        body = getattr(node, "body", [])
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    function: ast.AST | None = node
    if isinstance(node, ast.ClassDef):
        function = next((s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
    text = f"{node.name}()"
    if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = function.args
        if isinstance(node, ast.ClassDef):
            arguments = ast.arguments(**{**vars(arguments), "args": arguments.args[1:]})
        returns = f" -> {ast.unparse(function.returns)}" if function.returns and function is node else ""
        text = f"{node.name}({ast.unparse(arguments)}){returns}"
    summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    return Signature(dotted, text, summary, file, node.lineno)


def experiment_options(path: Path) -> list[tuple[str, str]]:
    """The options of a paper's experiment as its source shows them: ``name: type = default``, and the meaning."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "experiment"), None)
    if function is None:
        return []
    doc = ast.get_docstring(function) or ""
    options = []
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults):
        kind = ast.unparse(argument.annotation) if argument.annotation else "str"
        given = f" = {ast.unparse(default)}" if default is not None else ""
        options.append((f"{argument.arg}: {kind}{given}", option_help(doc, argument.arg)))
    return options


def option_help(doc: str, name: str) -> str:
    """The line of an argument under ``Args:`` in a docstring, on one line."""
    found = re.search(rf"^ +{name}(?: *\([^)]*\))?: *(.+(?:\n {{8,}}\S.*)*)", doc, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""
