"""Which tokens does a similarity rest on? Take them away one after the other and look at what is left."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["removal_curve"]

Embed = Callable[[Tensor], Tensor]
"""Token ids (tokens,) → an embedding (width,)."""


def removal_curve(
    embed: Embed,
    ids: Int[Tensor, " tokens"],
    other: Int[Tensor, " others"],
    relevance: Float[Tensor, "tokens others"],
    *,
    keep: tuple[int, int] = (1, 1),
    hottest_first: bool = True,
    least: int = 1,
) -> Float[Tensor, " steps"]:
    r"""The cosine of two texts' embeddings while tokens go, one of each text at a step.

    A token's heat is what its pairs add up to, \(\sum_j R_{ij}\) for the first text and \(\sum_i R_{ij}\) for the
    other. Where one text runs out of tokens the other goes on.

    Args:
        embed: of one text without padding.
        relevance: of the pairs of tokens.
        keep: how many tokens at start and end of each text stay: the special ones.
        hottest_first: False takes the coldest first.
        least: tokens of each text that stay besides those.

    Returns:
        the cosine before, and after each step.

    Raises:
        ValueError: a table of another size than the texts, values that are not finite, or texts too short.
    """
    if relevance.shape != (len(ids), len(other)):
        raise ValueError(f"relevance {tuple(relevance.shape)} for texts of {len(ids)} and {len(other)} tokens")
    if not bool(torch.isfinite(relevance).all()):
        raise ValueError("the relevances hold NaN or infinity: tokens cannot be ordered")
    start, end = keep
    if min(len(ids), len(other)) < start + end + least:
        raise ValueError(
            f"texts of {len(ids)} and {len(other)} tokens: {start + end} are special and {least} must stay"
        )
    orders = []
    for text, heat in ((ids, relevance.sum(1)), (other, relevance.sum(0))):
        inner = heat[start : len(text) - end]
        order = inner.argsort(descending=hottest_first, stable=True) + start
        orders.append(order[: len(order) - least])
    found = []
    for step in range(max(map(len, orders)) + 1):
        sides = []
        for text, order in zip((ids, other), orders, strict=True):
            stays = torch.ones(len(text), dtype=torch.bool)
            stays[order[:step]] = False
            sides.append(embed(text[stays]))
        found.append(torch.cosine_similarity(*sides, dim=0))
    return torch.stack(found)
