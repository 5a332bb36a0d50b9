"""Passkey retrieval: one marked value somewhere in a long text of noise, asked for at its end."""

from __future__ import annotations

import torch

from gramian.data.synthetic.automata import IGNORE, Words

__all__ = ["passkey"]


def passkey(
    samples: int,
    length: int,
    values: int = 8,
    noise: int = 8,
    generator: torch.Generator | None = None,
) -> Words:
    """Sequences of `length` tokens: noise, a mark and a value at a random place, noise, and the question.

    Tokens: values 0 … values − 1, noise values … values + noise − 1, then the mark and the question. The target at the
    last token, the question, is the value; elsewhere nothing is asked (`IGNORE`). A guess is right with chance
    1 / values.

    Raises:
        ValueError: a length below 4, fewer than 2 values, sizes below 1.

    >>> words = passkey(1, 8, generator=torch.Generator().manual_seed(0))
    >>> words.tokens.shape, words.letters, words.classes
    (torch.Size([1, 8]), 18, 8)
    """
    if samples < 1 or length < 4 or values < 2 or noise < 1:
        raise ValueError(
            f"samples={samples}, length={length}, values={values}, noise={noise}: at least 1, 4, 2 and 1 are needed"
        )
    tokens = torch.randint(values, values + noise, (samples, length), generator=generator)
    value = torch.randint(values, (samples,), generator=generator)
    place = torch.randint(length - 2, (samples,), generator=generator)
    rows = torch.arange(samples)
    tokens[rows, place] = values + noise
    tokens[rows, place + 1] = value
    tokens[:, -1] = values + noise + 1
    targets = torch.full_like(tokens, IGNORE)
    targets[:, -1] = value
    return Words(tokens, targets, values + noise + 2, values)
