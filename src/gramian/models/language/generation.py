"""Text from a language model with a state: the prompt is read once, then one step a token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Reader", "choose", "generate"]


@runtime_checkable
class Reader(Protocol):
    """What `generate` asks of a model."""

    def read(self, ids: Any, states: Any = None, last_only: bool = False) -> tuple[Tensor, Any]:
        """Logits of a piece of text, and the states after it."""
        ...

    def step(self, ids: Any, states: Any = None) -> tuple[Tensor, Any]:
        """Logits after one token, and the states after it."""
        ...


def generate(
    model: Reader,
    ids: Int[Tensor, "batch length"],
    max_new_tokens: int,
    *,
    temperature: float | int = 0.0,
    cached: bool = True,
    end_tokens: Iterable[int] = (),
    pad_token: int = 0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch longer"]:
    """Continue texts of one length, token by token.

    Args:
        ids: the prompts; every token counts, padding is not told apart.
        max_new_tokens: how many at most.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        cached: carry the states (one step a token); without, the whole text is read again for each.
        end_tokens: a text ends after one of these; its row is then filled with `pad_token`, and when all have ended
            the result is shorter.
        generator: for the draws.

    Returns:
        prompts and continuations.

    Raises:
        ValueError: a negative number of tokens or temperature.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} is negative")
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature}: 0 for the likeliest token, or a positive number")
    ends = torch.tensor(sorted(set(end_tokens)), dtype=ids.dtype, device=ids.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    pieces, states = [ids], None
    with torch.no_grad():
        for count in range(max_new_tokens):
            if count and cached:
                logits, states = model.step(pieces[-1][:, 0], states)
            else:
                logits, states = model.read(torch.cat(pieces, 1), None, last_only=True)
                logits = logits[:, -1]
            token = choose(logits, temperature, generator).to(ids.dtype)
            token = torch.where(ended, pad_token, token)
            pieces.append(token[:, None])
            ended = ended | torch.isin(token, ends)
            if len(ends) and bool(ended.all()):
                break
    return torch.cat(pieces, 1)


def choose(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float | int = 0.0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """The likeliest token of each row, or one drawn from softmax(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(-1)
    # of the difference to the largest, so that a small temperature does not overflow
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shares = ((wide - wide.amax(-1, keepdim=True)) / temperature).softmax(-1)
    return torch.multinomial(shares, 1, generator=generator)[:, 0]
