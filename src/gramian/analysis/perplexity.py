"""Perplexity: how well a causal language model predicts a text."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor, nn


def negative_log_likelihood(model: nn.Module, ids: Int[Tensor, " tokens"], window: int = 512) -> float:
    r"""The mean of \(-\log p(x_t \mid x_{<t})\) over a text's tokens, in nats a token.

    A text longer than `window` is read in windows that share nothing: the first token of each is not predicted.

    Args:
        model: takes ``model(ids)`` with ids (batch, tokens); returns logits, or an object with ``.logits``.
        ids: token numbers of one text.
        window: how many tokens the model reads at once.

    Raises:
        ValueError: fewer than two tokens, or a window shorter than two.
    """
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"a text has at least two tokens, got shape {tuple(ids.shape)}")
    if window < 2:
        raise ValueError(f"window={window}: a window holds a token to read and one to predict")
    total, count = 0.0, 0
    with torch.no_grad():
        for piece in ids.split(window):
            if len(piece) < 2:
                continue
            output = model(piece.unsqueeze(0))
            logits = output if isinstance(output, Tensor) else output.logits
            total += float(nn.functional.cross_entropy(logits[0, :-1].float(), piece[1:], reduction="sum"))
            count += len(piece) - 1
    return total / count


def perplexity(model: nn.Module, ids: Int[Tensor, " tokens"], window: int = 512) -> float:
    r"""The perplexity of a causal language model on a text: \(\exp\) of `negative_log_likelihood`.

    A model that gives every token of a vocabulary of V the same probability has perplexity V. Infinite
    where the mean passes what a float can hold the exponential of.

    Raises:
        ValueError: as `negative_log_likelihood`.
    """
    nats = negative_log_likelihood(model, ids, window)
    return math.exp(nats) if nats < 700 else math.inf
