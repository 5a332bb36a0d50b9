"""Find the papers and read their cards, without importing them."""

from __future__ import annotations

import ast
import csv
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from gramian.atlas.errors import UserError
from gramian.atlas.find.names import resolve
from gramian.lab.card import Card

PACKAGE = Path(__file__).parents[2]
"""The folder of the package ``gramian``."""

_START = re.compile(r"^CARD\s*=\s*(?=Card\()", re.MULTILINE)
_CLOSE = re.compile(r"\)[ \t]*(?=\n|$)")


def read_card(path: Path) -> Card:
    """The card in a paper's file.

    Only the ``CARD = Card(…)`` expression is parsed, and its keywords are evaluated as literals.

    Raises:
        UserError: no such expression, or a keyword that is not a literal or not valid.
    """
    text = path.read_text(encoding="utf-8")
    start = _START.search(text)
    if not start:
        raise UserError(f"{path}: a paper's file holds an expression `CARD = Card(…)`; see CONTRIBUTING.md")
    for close in _CLOSE.finditer(text, start.end()):
        try:  # the shortest prefix that parses is the whole call: its parenthesis closes only at its end
            call = ast.parse(text[start.end() : close.end()], mode="eval").body
        except SyntaxError:
            continue
        break
    else:
        raise UserError(f"{path}: the expression `CARD = Card(…)` does not end")
    assert isinstance(call, ast.Call)
    fields = {}
    for keyword in call.keywords:
        try:
            fields[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            raise UserError(f"{path}: {keyword.arg}= in the card is not a literal") from None
    try:
        return Card(**fields, slug=path.stem, topic=path.parent.name)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None


def paper_folders() -> tuple[Path, ...]:
    """Where papers stand: the package's own, then those named in ``GRAMIAN_PAPERS`` (same layout)."""
    more = [Path(p) for p in os.environ.get("GRAMIAN_PAPERS", "").split(os.pathsep) if p]
    return (PACKAGE / "papers", *more)


@dataclass(frozen=True)
class Paper:
    """A paper's card and its file."""

    card: Card
    path: Path

    def module(self) -> ModuleType:
        """Import the paper's file (and with it torch): only to run it."""
        from importlib import import_module, util

        if self.path.is_relative_to(PACKAGE):
            return import_module(f"gramian.papers.{self.card.topic}.{self.card.slug}")
        spec = util.spec_from_file_location(f"gramian_papers_{self.card.slug}", self.path)
        assert spec is not None
        assert spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


class Shelf:
    """All papers, by slug, in the order of their rows."""

    def __init__(self, folders: tuple[Path, ...] | None = None) -> None:
        files = [f for folder in folders or paper_folders() for f in sorted(folder.glob("*/*.py")) if f.name[0] != "_"]
        papers = [Paper(read_card(f), f) for f in files]
        self.papers = {p.card.slug: p for p in sorted(papers, key=lambda p: (p.card.row, p.card.slug))}

    def paper(self, name: str) -> Paper:
        """The paper of that slug; raises `UserError` with a suggestion."""
        return self.papers[resolve(name, self.papers, "paper", "gramian list")]

    def choose(self, names: tuple[str, ...] = (), topics: tuple[str, ...] = ()) -> list[Paper]:
        """The named papers and those of the topics; all of them when nothing is named."""
        wanted = [self.paper(n) for n in names]
        known = {p.card.topic for p in self.papers.values()}
        chosen = {resolve(t, known, "topic", "gramian list") for t in topics}
        wanted += [p for p in self.papers.values() if p.card.topic in chosen and p not in wanted]
        return wanted if names or topics else list(self.papers.values())

    @cached_property
    def topics(self) -> dict[str, str]:
        """Each topic that has a paper, with its title: the docstring of its folder."""
        titles = {}
        for paper in self.papers.values():
            marker = paper.path.parent / "__init__.py"
            doc = ast.get_docstring(ast.parse(marker.read_text(encoding="utf-8"))) if marker.exists() else None
            titles.setdefault(paper.card.topic, (doc or paper.card.topic).splitlines()[0].rstrip("."))
        return dict(sorted(titles.items()))


def planned() -> list[dict[str, str]]:
    """Every paper of the collection: row, slug, topic, year, arxiv and title, whether built or not."""
    with (PACKAGE / "papers" / "collection.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def planned_card(row: dict[str, str]) -> Card:
    """A card for a paper of the collection that is not built yet: its title stands for its idea."""
    return Card(
        title=row["title"], row=int(row["row"]), year=int(row["year"] or 0), kind="method", idea=row["title"],
        arxiv=row["arxiv"] or None, slug=row["slug"], topic=row["topic"],
    )  # fmt: skip
