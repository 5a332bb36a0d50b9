"""Features of whatever there is to judge: pictures and texts out of trained networks, rows of numbers as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import StandardScaler

from gramian import models
from gramian.estimators.anomaly.features import LevelFeatures

__all__ = ["ExampleFeatures", "TextLevels", "kind_of"]


@lru_cache(maxsize=2)
def _encoder(name: str) -> tuple[Any, Any]:
    """Kept beside the estimator and not in it: a saved detector holds the network's name, not its weights."""
    return models.pretrained(name), models.tokenizer(name)


class TextLevels(TransformerMixin, BaseEstimator):
    """The states of a frozen encoder of texts, averaged over the tokens: one vector a layer.

    For MiniLM these are 7 levels (embeddings, six layers) of 384 numbers each.

    Args:
        network: name of a trained encoder of `gramian.models.pretrained`.
        batch_size: texts that go through the network at once.
        max_tokens: tokens that are read of each.

    Raises:
        ValueError: no text, an empty one, or something else than text.
        Missing: the weights are not on this machine; the message names the command that brings them.
    """

    def __init__(self, network: str = "all_minilm_l6_v2", batch_size: int = 16, max_tokens: int = 256) -> None:
        self.network = network
        self.batch_size = batch_size
        self.max_tokens = max_tokens

    def __sklearn_is_fitted__(self) -> bool:
        """Always: the network was trained elsewhere."""
        return True

    def fit(self, X: Sequence[str], y: object = None) -> TextLevels:
        """Check the texts; nothing is estimated."""
        _check_texts(X)
        return self

    def transform(self, X: Sequence[str]) -> list[Float[np.ndarray, "texts _"]]:
        """One float64 matrix a level."""
        texts = _check_texts(X)
        network, read = _encoder(self.network)
        parts: list[list[np.ndarray]] = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                some = texts[start : start + self.batch_size]
                batch = read(some, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
                mask = batch["attention_mask"][..., None].double()
                states = network(**batch, output_hidden_states=True).hidden_states
                parts.append([((s.double() * mask).sum(1) / mask.sum(1)).numpy() for s in states])
        return [np.concatenate(rows) for rows in zip(*parts, strict=True)]


def _check_texts(texts: Any) -> list[str]:
    texts = list(texts)
    if not texts:
        raise ValueError("no texts given")
    for i, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {i} is {text!r:.40}; a text with words is needed")
    return texts


def kind_of(examples: Any) -> str:
    """What the examples are: ``"texts"``, ``"rows"`` of numbers, or ``"pictures"``.

    Raises:
        ValueError: there are none.
    """
    if not len(examples):
        raise ValueError("no examples given")
    first = examples[0]
    return "texts" if isinstance(first, str) else "rows" if np.ndim(first) == 1 else "pictures"


class ExampleFeatures(TransformerMixin, BaseEstimator):
    """The levels of a network for pictures (`LevelFeatures`) and texts (`TextLevels`); standardized columns for rows.

    Args:
        join: True gives one matrix, the levels side by side.

    >>> rows = list(np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]]))
    >>> ExampleFeatures(join=True).fit(rows).transform(rows)[:, 0].round(3).tolist()
    [-1.225, 0.0, 1.225]
    """

    def __init__(self, join: bool = False) -> None:
        self.join = join

    def fit(self, X: Sequence[Any], y: object = None) -> ExampleFeatures:
        """See what the examples are; columns of rows are standardized by these."""
        self.kind_ = kind_of(X)
        reader = {"pictures": LevelFeatures, "texts": TextLevels, "rows": StandardScaler}[self.kind_]()
        self.reader_ = reader.fit(np.stack(X) if self.kind_ == "rows" else X)
        return self

    def transform(self, X: Sequence[Any]) -> list[np.ndarray] | np.ndarray:
        """One float64 matrix a level, or all of them side by side.

        Raises:
            ValueError: examples of another kind than those before.
        """
        kind = kind_of(X)
        if kind != self.kind_:
            raise ValueError(f"fitted on {self.kind_}, asked about {kind}")
        found = [self.reader_.transform(np.stack(X))] if kind == "rows" else self.reader_.transform(X)
        return np.concatenate(found, axis=1) if self.join else found
