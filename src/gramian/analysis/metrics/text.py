"""How near a written text is to a reference: ROUGE-N and BLEU-N."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gramian.data import ngrams

__all__ = ["bleu", "mean_rouge", "rouge", "tokens"]


def rouge(prediction: str, reference: str, n: int = 1) -> ngrams.Overlap:
    """ROUGE-N: precision, recall and F of the n-grams that two texts share, without stemming.

    Words are runs of a–z and digits in lower case, as in the package rouge-score.

    Raises:
        ValueError: n below 1.

    >>> round(rouge("No acute disease.", "No acute cardiopulmonary disease.", 2).f1, 3)
    0.4

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), section 2.
    """
    return ngrams.overlap(ngrams.words(prediction), ngrams.words(reference), n)


def mean_rouge(predictions: Sequence[str], references: Sequence[str], n: int = 1) -> float:
    """The mean ROUGE-N F over pairs.

    Raises:
        ValueError: no pair, or lists of different lengths.
    """
    _paired(predictions, references)
    return sum(rouge(p, r, n).f1 for p, r in zip(predictions, references, strict=True)) / len(predictions)


def tokens(text: str) -> list[str]:
    """Words in lower case and single punctuation marks; a number keeps its point.

    >>> tokens("A 1.5 cm nodule, left-sided.")
    ['a', '1.5', 'cm', 'nodule', ',', 'left', '-', 'sided', '.']
    """
    return re.findall(r"\d+(?:\.\d+)+|\w+|[^\w\s]", text.lower())


def bleu(
    predictions: Sequence[str],
    references: Sequence[str],
    n: int = 4,
    *,
    smoothing: str = "none",
) -> float:
    r"""BLEU-N of a corpus, one reference each: \(\min(1, e^{1 - r/c}) \cdot (\prod_{k \le N} p_k)^{1/N}\), in [0, 1].

    \(p_k\) is the share of all predictions' k-grams that the references have (clipped by text), c and r count the
    predictions' and references' tokens.

    Args:
        n: longest run.
        smoothing: ``"none"``: 0 where one \(p_k\) is 0; ``"exp"``: the j-th order without a match counts
            \(2^{-j}\) matches.

    Raises:
        ValueError: no pair, lists of different lengths, n below 1, an unknown smoothing.

    >>> bleu(["no acute disease"], ["no acute disease seen"], 2)
    0.716...

    Source: Papineni et al., "BLEU" (2002), section 2; smoothing as NIST's mteval-v13a script.
    """
    _paired(predictions, references)
    if n < 1:
        raise ValueError(f"n={n}: runs have at least one token")
    if smoothing not in ("none", "exp"):
        raise ValueError(f"smoothing={smoothing!r} is not 'none' or 'exp'")
    ours, theirs = [tokens(p) for p in predictions], [tokens(r) for r in references]
    written, wanted = sum(map(len, ours)), sum(map(len, theirs))
    if not written:
        return 0.0
    total, missing = 0.0, 0
    for k in range(1, n + 1):
        pairs = [(ngrams.ngrams(a, k), ngrams.ngrams(b, k)) for a, b in zip(ours, theirs, strict=True)]
        shared, possible = sum((a & b).total() for a, b in pairs), sum(a.total() for a, _ in pairs)
        if not possible or (not shared and (smoothing == "none" or k == 1)):
            return 0.0
        missing += not shared
        total += math.log((shared or 2.0**-missing) / possible)
    return min(1.0, math.exp(1 - wanted / written)) * math.exp(total / n)


def _paired(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references: one each is needed")
