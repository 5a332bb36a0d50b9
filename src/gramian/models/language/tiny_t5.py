"""A small T5 that reads and writes whole words, and its training on pairs of texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gramian.lab import Missing

__all__ = ["Vocabulary", "pair_loss", "pairs", "tiny_t5", "write"]

PAD, END, UNKNOWN = 0, 1, 2
IGNORED = -100


class Vocabulary:
    """The words of some texts, in lower case, with punctuation marks as words of their own.

    Args:
        texts: where the words come from.
        special: further words that are kept whole, such as a mask.

    >>> vocabulary = Vocabulary(["No effusion."], special=("<mask>",))
    >>> vocabulary.decode(vocabulary.encode(["<mask> no edema."])[0])
    '<mask> no <unknown> .'
    """

    def __init__(self, texts: Iterable[str], special: Sequence[str] = ("<mask>",)) -> None:
        self._pattern = re.compile("|".join([*map(re.escape, special), r"\w+", r"[^\w\s]"]))
        self.words = ["<pad>", "<end>", "<unknown>", *special]
        self.words += sorted({w for text in texts for w in self._split(text)} - set(self.words))
        self._number = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def _split(self, text: str) -> list[str]:
        return self._pattern.findall(text.lower())

    def encode(self, texts: Sequence[str], length: int | None = None) -> Int[Tensor, "texts length"]:
        """Word numbers, an end after each text, padded with zeros to the longest, or cut to `length`.

        Raises:
            ValueError: no text, or one without a word.
        """
        rows = [[self._number.get(w, UNKNOWN) for w in self._split(text)] for text in texts]
        if not rows or not all(rows):
            raise ValueError(f"text {[bool(r) for r in rows].index(False) if rows else 0} is empty: nothing to encode")
        rows = [(row[: length - 1] if length else row) + [END] for row in rows]
        width = max(map(len, rows))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])

    def decode(self, ids: Int[Tensor, " length"]) -> str:
        """The words up to the end, joined by blanks."""
        found = []
        for number in ids.tolist():
            if number == END:
                break
            if number != PAD:
                found.append(self.words[number])
        return " ".join(found)


def tiny_t5(vocabulary: int, seed: int = 0, *, width: int = 64, depth: int = 2, heads: int = 4) -> nn.Module:
    """A T5 of `depth` encoder and decoder layers with random weights, without dropout.

    Raises:
        Missing: transformers is not installed.
        ValueError: heads that do not divide the width.
    """
    try:
        from transformers import T5Config, T5ForConditionalGeneration
    except ImportError as error:
        raise Missing(f"T5 needs transformers: pip install 'gramian[language]' ({error})") from error
    if width % heads:
        raise ValueError(f"heads={heads} must divide width={width}")
    config = T5Config(
        vocab_size=vocabulary, d_model=width, d_kv=width // heads, d_ff=2 * width, num_layers=depth, num_heads=heads,
        dropout_rate=0.0, pad_token_id=PAD, eos_token_id=END, decoder_start_token_id=PAD,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # transformers draws weights from torch's global generator
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config).eval()


def pairs(
    vocabulary: Vocabulary, sources: Sequence[str], targets: Sequence[str], lengths: tuple[int, int] = (512, 256)
) -> list[Tensor]:
    """Word numbers of what is read and of what is to be written, padding of the latter marked -100."""
    read, written = vocabulary.encode(sources, lengths[0]), vocabulary.encode(targets, lengths[1])
    return [read, written.masked_fill(written == PAD, IGNORED)]


def pair_loss(model: nn.Module, read: Tensor, written: Tensor) -> Tensor:
    """The mean cross-entropy of the words to be written."""
    return model(input_ids=read, attention_mask=(read != PAD).long(), labels=written).loss


def write(model: Any, vocabulary: Vocabulary, sources: Sequence[str], longest: int = 40, batch: int = 256) -> list[str]:
    """What the model writes to each text, always taking the likeliest word."""
    found, ids = [], vocabulary.encode(sources)
    for read in ids.split(batch):
        with torch.no_grad():
            out = model.generate(
                input_ids=read,
                attention_mask=(read != PAD).long(),
                max_new_tokens=longest,
                do_sample=False,
                num_beams=1,
            )
        found += [vocabulary.decode(row[1:]) for row in out]
    return found
