"""Prompts whose next word is the name that was said once: indirect object identification."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["NAMES", "IndirectObject", "indirect_object_prompts"]

NAMES = (
    " Mary", " John", " Tom", " Anna", " David", " Sarah", " James", " Alice", " Paul", " Emma", " Mark", " Kate",
)  # fmt: skip
_FRAME = "When{one} and{other} went to the store,{giver} gave a drink to"


class IndirectObject(NamedTuple):
    """Pairs of prompts with the same two names: in `base` the second one gives, in `source` the first."""

    base: Int[Tensor, "pairs length"]
    source: Int[Tensor, "pairs length"]
    first: Int[Tensor, " pairs"]
    """The first name: what comes next in `base`."""
    second: Int[Tensor, " pairs"]
    """The second name: what comes next in `source`."""


def indirect_object_prompts(
    tokenizer: Any, pairs: int, generator: torch.Generator | None = None, frame: str = _FRAME
) -> IndirectObject:
    """Draw pairs of names and fill them into the frame.

    Args:
        tokenizer: of transformers; each of `NAMES` must be one token of it.
        frame: with ``{one}``, ``{other}`` and ``{giver}`` for names, each with its space before it.

    Raises:
        ValueError: no pairs, or a tokenizer that cuts a name.

    Source: Wang et al., Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small
    (2022), the kind of prompts.
    """
    if pairs < 1:
        raise ValueError(f"pairs={pairs} must be at least 1")
    tokens = {name: tokenizer(name, add_special_tokens=False).input_ids for name in NAMES}
    cut = [name for name, ids in tokens.items() if len(ids) != 1]
    if cut:
        raise ValueError(f"the tokenizer cuts the names {cut}: each must be one token")
    rows: list[tuple[list[int], list[int], int, int]] = []
    for _ in range(pairs):
        one, other = (NAMES[i] for i in torch.randperm(len(NAMES), generator=generator)[:2].tolist())
        texts = [frame.format(one=one, other=other, giver=giver) for giver in (other, one)]
        base, source = (tokenizer(text).input_ids for text in texts)
        rows.append((base, source, tokens[one][0], tokens[other][0]))
    return IndirectObject(*(torch.tensor(column) for column in zip(*rows, strict=True)))
