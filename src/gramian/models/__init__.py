"""Whole networks, by what they read, and the trained ones by name."""

from importlib import import_module
from typing import Any

from gramian.models.pretrained import PRETRAINED, embed_sentences, pretrained, tokenizer

__all__ = ["PRETRAINED", "embed_sentences", "pretrained", "tokenizer"]


def __getattr__(name: str) -> Any:
    try:
        return import_module(f"gramian.models.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"gramian.models.{name}":
            raise
        raise AttributeError(f"gramian.models has no {name!r}") from None
