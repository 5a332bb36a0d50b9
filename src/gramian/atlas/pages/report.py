"""Reports: one self-contained HTML page of what was measured, legible in light and dark and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gramian.atlas.measure.store import Result
from gramian.atlas.pages.text import figure, import_lines
from gramian.lab.card import Card

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """The template environment: every value is escaped, an undefined one is an error."""
    env = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    env.filters["figure"] = figure
    env.globals["imports"] = import_lines
    env.globals["style"] = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return env


def blocks(result: Result) -> list[dict[str, Any]]:
    """What a run left behind, with its figures read in as SVG."""
    found = []
    for part in result.evidence.get("parts", []):
        if part["type"] == "figure" and result.folder:
            svg = Path(result.folder) / "figures" / f"{part['name']}.svg"
            if not svg.exists():
                continue
            part = {**part, "svg": Markup(svg.read_text(encoding="utf-8"))}
        found.append(part)
    return sorted(found, key=lambda p: ("figure", "text", "table", "model").index(p["type"]))


def write_report(rows: list[tuple[Card, Result]], path: Path, title: str | None = None) -> Path:
    """Write the report of one or several rows; returns its path."""
    if title is None:
        title = rows[0][0].title if len(rows) == 1 else f"{len(rows)} papers, measured"
    ok = sum(result.status == "ok" for _, result in rows)
    checks = [c for _, result in rows for c in result.checks]
    held = sum(c["ok"] for c in checks)
    subtitle = f"{ok} of {len(rows)} ok; {held} of {len(checks)} checks hold. Measured by gramian on this machine."
    sheets = [(card, result, blocks(result)) for card, result in rows]
    html = environment().get_template("report.html").render(title=title, subtitle=subtitle, sheets=sheets)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(html, encoding="utf-8")
    part.replace(path)
    return path
