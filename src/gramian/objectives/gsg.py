"""Gap sentences: a text without labels becomes a summary task by hiding the sentences that say most about the rest."""

from __future__ import annotations

from dataclasses import dataclass

from gramian.data import ngrams

__all__ = ["GapSentences", "gap_sentences"]


@dataclass(frozen=True)
class GapSentences:
    """A text to read and what of it to write.

    Attributes:
        source: the text, each chosen sentence replaced by the mask.
        target: the chosen sentences, in the text's order.
        chosen: their places in the text.
        scores: of every sentence, its ROUGE-1 F against all others.
    """

    source: str
    target: str
    chosen: tuple[int, ...]
    scores: tuple[float, ...]


def gap_sentences(
    text: str,
    ratio: float = 0.3,
    *,
    strategy: str = "independent",
    mask: str = "<mask>",
) -> GapSentences:
    r"""Hide the \(k = \max(1, \mathrm{round}(\text{ratio} \cdot n))\) of n sentences that summarise the others best.

    ``"independent"`` takes the k sentences of highest \(s_i = \mathrm{ROUGE}\text{-}1_F(x_i, D \setminus \{x_i\})\);
    ``"sequential"`` adds one at a time, whichever raises the ROUGE-1 F between all chosen and all others most. Ties
    go to the earlier sentence.

    Args:
        text: at least two sentences.
        ratio: share of the sentences to hide, between 0 and 1; at least one is left to read.
        strategy: how they are chosen.
        mask: stands in each hidden sentence's place; with an empty one the sentence is just left out.

    Raises:
        ValueError: an empty text, one sentence only, a ratio outside (0, 1), or an unknown strategy.

    Source: Zhang et al., "PEGASUS" (2020), section 3.1, as the first stage of CSTRL.

    >>> gap_sentences("Small left effusion. The heart is normal. A left effusion is seen, small in size.").target
    'A left effusion is seen, small in size.'
    """
    if strategy not in ("independent", "sequential"):
        raise ValueError(f"strategy={strategy!r} is not 'independent' or 'sequential'")
    if not 0 < ratio < 1:
        raise ValueError(f"ratio={ratio} must lie between 0 and 1: a share of the sentences")
    sentences = ngrams.sentences_of(text)
    if len(sentences) < 2:
        found = "is empty" if not sentences else "has one sentence"
        raise ValueError(f"the text {found}; a gap needs at least two sentences, one to hide and one to read")
    tokens = [ngrams.words(s) for s in sentences]
    count = min(max(1, round(ratio * len(sentences))), len(sentences) - 1)
    scores = tuple(_score(tokens, {i}) for i in range(len(sentences)))
    if strategy == "independent":
        chosen = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))[:count]
    else:
        chosen = []
        for _ in range(count):
            left = [i for i in range(len(sentences)) if i not in chosen]
            chosen.append(max(left, key=lambda i: (_score(tokens, {*chosen, i}), -i)))
    hidden = set(chosen)
    read = [mask if i in hidden else s for i, s in enumerate(sentences)]
    return GapSentences(
        " ".join(part for part in read if part), " ".join(sentences[i] for i in sorted(hidden)),
        tuple(sorted(hidden)), scores,
    )  # fmt: skip


def _score(tokens: list[list[str]], inside: set[int]) -> float:
    """ROUGE-1 F of some sentences against all others."""
    hidden = [word for i, sentence in enumerate(tokens) if i in inside for word in sentence]
    rest = [word for i, sentence in enumerate(tokens) if i not in inside for word in sentence]
    return ngrams.overlap(hidden, rest).f1
