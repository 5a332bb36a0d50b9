"""Prose to read: fixed passages of English for measuring language models.

They come out of the installed Python and scikit-learn: the reference texts on Python's language and the
descriptions of scikit-learn's data sets, cut into passages at paragraph ends and stripped of tables, code
and headings. Another version of either changes a word here and there, so `fingerprint` says which texts
a measurement used.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache

_WORDS = 200
_DESCRIPTIONS = ("breast_cancer", "wine_data", "twenty_newsgroups", "kddcup99", "lfw", "olivetti_faces", "rcv1")
_FIXED = ("breast_cancer", "wine_data", "iris", "diabetes")
_TOPICS = (
    "assert", "assignment", "atom-identifiers", "attribute-access", "binary", "bltin-types", "booleans", "calls",
    "class", "comparisons", "compound", "context-managers", "customization", "dynamic-features", "exceptions",
    "execmodel", "for", "function", "global", "identifiers", "import", "in", "naming", "objects",
    "operator-summary", "raise", "return", "sequence-types", "shifting", "specialnames", "subscriptions", "try",
    "types", "typesfunctions", "while", "with", "yield",
)  # fmt: skip


def passages(count: int = 12, min_words: int = _WORDS) -> list[str]:
    """The first `count` passages of at least `min_words` words each; always the same on one installation.

    Raises:
        ValueError: there are not so many.
    """
    found = _passages(min_words)
    if not 1 <= count <= len(found):
        raise ValueError(f"count is {count}; there are {len(found)} passages of at least {min_words} words")
    return list(found[:count])


def descriptions() -> str:
    """The descriptions of four of scikit-learn's data sets, one after the other.

    12,272 characters: breast cancer, wine, iris and diabetes, tables and references included. A fixed text to
    measure the perplexity of a changed language model on, short enough to be measured often. `fingerprint`
    of it is ``c79256d42f86`` where the tested scikit-learn is installed.
    """
    from importlib.resources import files

    folder = files("sklearn.datasets") / "descr"
    return "".join((folder / f"{name}.rst").read_text(encoding="utf-8") for name in _FIXED)


def fingerprint(texts: list[str]) -> str:
    """Twelve hexadecimal digits that name `texts`."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


@cache
def _passages(min_words: int) -> tuple[str, ...]:
    sources = [_prose(text) for text in _sources()]
    cut = [_cut(paragraphs, min_words) for paragraphs in sources]
    found = []
    for turn in range(max(map(len, cut), default=0)):  # one from each source, then the next from each: more variety
        found += [passages[turn] for passages in cut if turn < len(passages)]
    return tuple(dict.fromkeys(found))


def _sources() -> list[str]:
    from importlib.resources import files
    from pydoc_data.topics import topics

    folder = files("sklearn.datasets") / "descr"
    texts = [(folder / f"{name}.rst").read_text(encoding="utf-8") for name in _DESCRIPTIONS]
    return texts + [topics[name] for name in _TOPICS if name in topics]


def _prose(text: str) -> list[str]:
    """The paragraphs of `text` that are prose, each on one line."""
    kept = []
    for block in re.split(r"\n\s*\n", text.replace("\r", "")):
        lines = block.splitlines()
        joined = re.sub(r"\s+", " ", block).strip()
        indented = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        joined = re.sub(r"[*`|]+|:[a-z:]+:(?=`)|\^", "", joined)
        words = joined.split()
        letters = sum(c.isalpha() or c.isspace() for c in joined)
        sentence = joined[:1].isupper() and joined[-1:] in ".:!?" and len(words) >= 12
        code = re.search(r">>>|::=|\.\. |==|---|https?:|\b\w+\(\w*\) ?->", joined)
        if sentence and indented < 6 and letters >= 0.9 * len(joined) and not code:
            kept.append(joined.removesuffix(":") + "." if joined.endswith(":") else joined)
    return kept


def _cut(paragraphs: list[str], min_words: int) -> list[str]:
    found, current = [], []
    for paragraph in paragraphs:
        current.append(paragraph)
        if sum(len(p.split()) for p in current) >= min_words:
            found.append("\n\n".join(current))
            current = []
    return found
