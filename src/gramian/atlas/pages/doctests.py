"""A Markdown extension: lines of use in docstrings (``>>> …``) are shown as code, not as a quotation in a quotation."""

from __future__ import annotations

import re
from typing import Any

from markdown import Extension
from markdown.preprocessors import Preprocessor

_PROMPT = re.compile(r"\s*>>> ")


class _Fenced(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        made: list[str] = []
        inside = fenced = False
        for line in lines:
            fenced ^= line.lstrip().startswith("```")
            if not inside and not fenced and _PROMPT.match(line):
                made += ["", "```pycon"]
                inside = True
            elif inside and not line.strip():
                made.append("```")
                inside = False
            made.append(line)
        return [*made, "```"] if inside else made


class Doctests(Extension):
    """Puts a fence around each run of lines that begins with a prompt and ends with an empty line."""

    def extendMarkdown(self, md: Any) -> None:
        md.preprocessors.register(_Fenced(md), "doctests", 40)  # before the fences themselves are read


def makeExtension(**settings: Any) -> Doctests:
    """What Markdown calls to load this module."""
    return Doctests(**settings)
