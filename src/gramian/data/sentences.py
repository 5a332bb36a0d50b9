"""Sentences of the fixed passages: short inputs for measuring what a change does to sentence embeddings."""

from __future__ import annotations

import re
from functools import cache

from gramian.data.text import passages

__all__ = ["sentences"]


def sentences(count: int, skip: int = 0) -> list[str]:
    """Sentences of `gramian.data.text.passages`, of 6 to 60 words, each once; always the same on one installation.

    Args:
        count: how many.
        skip: how many to leave out first, such as those used for something else.

    Raises:
        ValueError: there are not so many.

    >>> len(sentences(24)), set(sentences(24)) & set(sentences(24, skip=24))
    (24, set())
    """
    found = _sentences()
    if count < 1 or skip < 0 or skip + count > len(found):
        raise ValueError(f"count={count} and skip={skip}: the passages have {len(found)} sentences")
    return list(found[skip : skip + count])


@cache
def _sentences() -> tuple[str, ...]:
    kept = []
    for passage in passages(12):
        joined = re.sub(r"\s+", " ", passage).strip()
        kept += [s for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", joined) if 6 <= len(s.split()) <= 60]
    return tuple(dict.fromkeys(kept))
