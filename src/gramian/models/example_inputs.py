"""Inputs to run an opened model on: the user's text or pictures, or bundled ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from gramian import data
from gramian.models.opening import Opened

PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket", "china", "flower", "clock", "coins", "horse", "camera")
_WINDOW = 512


@dataclass(frozen=True)
class Inputs:
    """Batches to call a model with, and what they are.

    Attributes:
        batches: each is the keyword arguments of one call.
        masks: for each batch which positions are real, (batch, positions); None where all are.
        note: in words, for a report.
        labels: for each batch the classes of its pictures, counted from 0; None where nobody knows.
    """

    batches: list[dict[str, Tensor]]
    masks: list[Tensor | None]
    note: str
    labels: list[Tensor] | None = None


def example_inputs(opened: Opened, source: str | None = None, *, tokens: int = 4096) -> Inputs:
    """Inputs of the kind that a model reads.

    Args:
        source: a text file (``.txt``, ``.md``) for a model of text; a picture, a folder of pictures or a named
            picture for one of images; without it, bundled prose or photographs.
        tokens: how many tokens of a text to take at most, in windows of 512 (or the model's own, if shorter).

    Raises:
        ValueError: the model's inputs are not known, or the source is not of that kind, or is empty.
    """
    if not opened.runs:
        raise ValueError(f"{opened.name} is a file of weights alone and cannot run")
    if opened.reads == "text":
        return _windows(opened, _text(source), tokens)
    if opened.reads == "sentences":
        return _sentences(opened, _text(source), tokens)
    if opened.reads == "images":
        return _pictures(source)
    raise ValueError(f"what {opened.name} reads is not known: its activations cannot be looked at")


def read_text(path: Path) -> str:
    """A text file as a string.

    Raises:
        ValueError: not a file, not text, or empty.
    """
    if not path.is_file():
        raise ValueError(f"there is no text file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


def _text(source: str | None) -> tuple[str, str]:
    if source is None:
        from gramian.data import text

        return text.descriptions(), "the bundled text (descriptions of four data sets)"
    return read_text(Path(source)), f"the text {Path(source).name}"


def token_ids(opened: Opened, text: str) -> Tensor:
    """The token numbers of a text, (tokens,), without added special tokens.

    Raises:
        ValueError: the model has no tokenizer, or the text has fewer than two tokens.
    """
    if opened.tokenizer is None:
        raise ValueError(f"{opened.name} has no tokenizer in its folder: text cannot be read")
    # transformers warns of texts longer than the model reads; they are cut into windows afterwards
    ids = opened.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} token; at least 2 are needed")
    return torch.tensor(ids)


def _windows(opened: Opened, source: tuple[str, str], tokens: int) -> Inputs:
    ids = token_ids(opened, source[0])[:tokens]
    limit = getattr(getattr(opened.model, "config", None), "max_position_embeddings", None) or _WINDOW
    pieces = [p for p in ids.split(min(_WINDOW, limit)) if len(p) > 1]
    batches = [{"input_ids": p.unsqueeze(0)} for p in pieces]
    return Inputs(batches, [None] * len(batches), f"{sum(map(len, pieces))} tokens of {source[1]}")


def _sentences(opened: Opened, source: tuple[str, str], tokens: int) -> Inputs:
    if opened.tokenizer is None:
        raise ValueError(f"{opened.name} has no tokenizer in its folder: text cannot be read")
    lines = [" ".join(p.split()) for p in source[0].split("\n\n") if len(p.split()) > 3]
    batches: list[dict[str, Tensor]] = []
    masks: list[Tensor | None] = []
    count = 0
    for start in range(0, len(lines), 8):
        batch = opened.tokenizer(
            lines[start : start + 8], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        batches.append(dict(batch))
        masks.append(batch["attention_mask"].bool())
        count += int(batch["attention_mask"].sum())
        if count >= tokens:
            break
    if not batches:
        raise ValueError("the text has no paragraph of more than three words")
    return Inputs(batches, masks, f"{count} tokens of {source[1]}, by paragraphs")


def _pictures(source: str | None) -> Inputs:
    from gramian.models.vision.efficientnet_lite import preprocess

    if source is None:
        found: Sequence[Any] = [data.load(name).pixels for name in PHOTOGRAPHS]
        note = f"{len(found)} bundled photographs"
    else:
        read = data.read(Path(source)) if Path(source).exists() else data.load(source)
        found = read.images if hasattr(read, "images") else [read.pixels] if hasattr(read, "pixels") else []
        note = f"{len(found)} pictures of {Path(source).name}"
    if not len(found):
        raise ValueError(f"{source} holds no picture")
    kinds = getattr(read, "labels", None) if source is not None else None
    tensors = [preprocess(numpy.asarray(p)[..., :3] if numpy.ndim(p) == 3 else p) for p in found]
    batches = [{"x": torch.stack(tensors[i : i + 8])} for i in range(0, len(tensors), 8)]
    labels = None
    if kinds is not None:
        numbers = torch.from_numpy(numpy.unique(kinds, return_inverse=True)[1])
        labels = list(numbers.split(8))
        note += f", {int(numbers.max()) + 1} classes"
    return Inputs(batches, [None] * len(batches), note, labels)
