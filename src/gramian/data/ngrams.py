"""Words, runs of words, and how much of them two texts share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Overlap", "ngrams", "overlap", "sentences_of", "words"]


@dataclass(frozen=True)
class Overlap:
    """How much of one text is in another: shares between 0 and 1.

    Attributes:
        precision: of the prediction's n-grams, the share that the reference has.
        recall: of the reference's n-grams, the share that the prediction has.
        f1: their harmonic mean, 0 where both are.
    """

    precision: float
    recall: float
    f1: float


def words(text: str) -> list[str]:
    """Runs of letters a–z and digits, in lower case; everything else separates.

    >>> words("No acute X-ray finding.")
    ['no', 'acute', 'x', 'ray', 'finding']
    """
    return re.findall(r"[a-z0-9]+", text.lower())


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n tokens occurs.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: a run has at least one token")
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def overlap(prediction: Sequence[str], reference: Sequence[str], n: int = 1) -> Overlap:
    r"""The n-grams two token lists share, each counted as often as in the list that has fewer of it.

    \(P = c / |p|\), \(R = c / |r|\), \(F_1 = 2PR / (P + R) = 2c / (|p| + |r|)\), where c counts what is shared.

    >>> overlap("the lungs are clear".split(), "lungs clear".split())
    Overlap(precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    ours, theirs = ngrams(prediction, n), ngrams(reference, n)
    shared = (ours & theirs).total()
    total = ours.total() + theirs.total()
    # one division: equal shares give equal floats, so that ties are ties
    return Overlap(shared / max(ours.total(), 1), shared / max(theirs.total(), 1), 2 * shared / max(total, 1))


def sentences_of(text: str) -> list[str]:
    """A text cut after each full stop, question or exclamation mark that a blank follows.

    >>> sentences_of("The heart is normal. No 1.5 cm nodule!  Clear lungs")
    ['The heart is normal.', 'No 1.5 cm nodule!', 'Clear lungs']
    """
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if words(part)]
