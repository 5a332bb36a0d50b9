"""Taxonomies of surveys, read off the papers' files without importing them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gramian.atlas.errors import UserError
from gramian.lab.taxonomy import check_taxonomy

__all__ = ["outline", "read_taxonomy"]


def read_taxonomy(path: Path) -> dict[str, Any] | None:
    """The literal ``TAXONOMY = {…}`` of a paper's file; None where it has none.

    Raises:
        UserError: a taxonomy that is not a literal, or has an empty branch or a leaf that is no call.
    """
    text = path.read_text(encoding="utf-8")
    if "\nTAXONOMY = " not in text:
        return None
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "TAXONOMY":
            try:
                found = ast.literal_eval(statement.value)
                check_taxonomy(found)
            except ValueError as error:
                raise UserError(f"{path}: TAXONOMY: {error}") from None
            return found
    return None


def outline(taxonomy: Mapping[str, Any], depth: int = 0) -> list[str]:
    """Lines of a nested Markdown list: leaves that work with the call that opens them, the others as not yet."""
    lines = []
    for name, value in taxonomy.items():
        indent = "    " * depth
        if isinstance(value, Mapping):
            lines += [f"{indent}- {name}", *outline(value, depth + 1)]
        else:
            lines.append(f"{indent}- **{name}**: `{value}`" if value else f"{indent}- {name} (not yet)")
    return lines
