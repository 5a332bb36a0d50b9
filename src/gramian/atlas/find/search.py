"""Search the cards: BM25 over title, idea, claim, keywords, API, topic and use."""

from __future__ import annotations

import math
import re
from collections import Counter

from gramian.lab.card import Card

_WORD = re.compile(r"[a-z0-9]+")
_COMMON = frozenset(
    [
        "a",
        "an",
        "and",
        "as",
        "at",
        "be",
        "by",
        "for",
        "from",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "with",
        "without",
        "how",
    ]
)
_WEIGHTS = (
    ("title", 3),
    ("keywords", 3),
    ("idea", 2),
    ("claim", 1),
    ("api", 1),
    ("slug", 3),
    ("topic", 1),
    ("kind", 1),
)


def stem(word: str) -> str:
    """The word without its commonest English endings: enough to let plural meet singular."""
    for ending, rest in (("ations", "at"), ("ation", "at"), ("izing", "iz"), ("ising", "iz"), ("ies", "y"), ("ing", ""),
                         ("ers", ""), ("er", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + rest
    return word


def words(text: str) -> list[str]:
    """The stems of a text's words, common ones left out."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    return [stem(w) for w in _WORD.findall(spaced) if w not in _COMMON]


def rank(query: str, cards: list[Card], *, k1: float = 1.4, b: float = 0.6) -> list[tuple[Card, float]]:
    """The cards that match, best first, with their BM25 scores; fields count by their weight."""
    documents = []
    for card in cards:
        bag: Counter[str] = Counter()
        for name, weight in _WEIGHTS:
            value = getattr(card, name)
            for word in words(" ".join(value) if isinstance(value, tuple) else value):
                bag[word] += weight
        documents.append(bag)
    lengths = [sum(d.values()) for d in documents]
    mean = sum(lengths) / max(len(lengths), 1)
    scores = [0.0] * len(cards)
    for word in set(words(query)):
        holders = sum(word in d for d in documents)
        idf = math.log(1 + (len(cards) - holders + 0.5) / (holders + 0.5))
        for i, bag in enumerate(documents):
            count = bag[word]
            scores[i] += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * lengths[i] / mean))
    ranked = sorted(zip(cards, scores), key=lambda pair: (-pair[1], pair[0].row))
    return [(card, score) for card, score in ranked if score > 0]
