"""Multi-query associative recall: keys with values, then the keys again; what was each one's value?"""

from __future__ import annotations

import torch

from gramian.data.synthetic.automata import IGNORE, Words

__all__ = ["associative_recall"]


def associative_recall(
    samples: int,
    pairs: int = 16,
    queries: int | None = None,
    keys: int = 64,
    values: int = 64,
    generator: torch.Generator | None = None,
) -> Words:
    """Sequences k₁ v₁ k₂ v₂ … of different keys with random values, then `queries` of those keys in random order.

    Tokens: keys 0 … keys − 1, then values keys … keys + values − 1. The target at a query is the index of its value
    (0 … values − 1); elsewhere nothing is asked (`IGNORE`). Nothing but the pairs tells the answer: a guess is right
    with chance 1 / values.

    Args:
        samples: how many sequences.
        pairs: pairs in each.
        queries: keys asked, each at most once; all pairs if not given.
        keys: how many keys there are.
        values: how many values there are.

    Raises:
        ValueError: more pairs than keys, more queries than pairs, sizes below 1, fewer than 2 values.

    Source: Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", 2023 (the task; here
    the queries stand together at the end).

    >>> words = associative_recall(1, pairs=3, keys=5, values=4, generator=torch.Generator().manual_seed(0))
    >>> words.tokens.shape, words.letters, words.classes
    (torch.Size([1, 9]), 9, 4)
    """
    queries = pairs if queries is None else queries
    for name, value, low, high, of in (
        ("samples", samples, 1, None, ""),
        ("keys", keys, 1, None, ""),
        ("values", values, 2, None, ""),
        ("pairs", pairs, 1, keys, "keys"),
        ("queries", queries, 1, pairs, "pairs"),
    ):
        if value < low or (high is not None and value > high):
            most = "" if high is None else f" and at most {of}={high}: each is used once"
            raise ValueError(f"{name}={value}: must be at least {low}{most}")

    def arrange(size: int, chosen: int) -> torch.Tensor:
        """`chosen` different numbers below `size`, in random order, for each sample."""
        return torch.rand(samples, size, generator=generator, dtype=torch.float64).argsort(1)[:, :chosen]

    key = arrange(keys, pairs)
    value = torch.randint(values, (samples, pairs), generator=generator)
    asked = arrange(pairs, queries)
    context = torch.stack((key, keys + value), -1).flatten(1)
    tokens = torch.cat((context, key.gather(1, asked)), 1)
    targets = torch.cat((torch.full_like(context, IGNORE), value.gather(1, asked)), 1)
    return Words(tokens, targets, keys + values, values)
