"""Values and code as a person reads them; shared by the terminal, the reports and the site."""

from __future__ import annotations

from typing import Any

from gramian.lab.card import Card


def figure(value: Any) -> str:
    """A value for a person to read: four significant digits, a word for a truth value, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(figure(v) for v in value)
    return str(value)


def import_lines(card: Card) -> str:
    """The imports that a card's lines of use need and do not bring: those of its API whose names occur in them."""
    lines: list[str] = []
    if "import " in card.use:
        return ""
    for dotted in card.api:
        module, _, name = dotted.rpartition(".")
        if f"{name}(" in card.use or f"{name}." in card.use:
            lines.append(f"from {module} import {name}")
    return "\n".join(lines) + "\n\n" if lines else ""
