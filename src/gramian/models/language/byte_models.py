"""Small Mamba language models that read bytes, trained once in a process on English prose."""

from __future__ import annotations

import copy
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from gramian.data import text
from gramian.models.language.mamba2_lm import Mamba2LM
from gramian.models.language.mamba_lm import MambaLM
from gramian.models.language.tiny import BYTES, byte_ids, train_on_tokens

__all__ = ["build", "corpus", "train", "trained"]

KINDS = ("mamba", "mamba2")


@cache
def corpus() -> tuple[Int[Tensor, " bytes"], Int[Tensor, " held_out"]]:
    """Some 135 KB of prose to train on, and 4 KB of other passages to measure on."""
    passages = text.passages(80)
    held_out = byte_ids("\n\n".join(passages[-3:]))
    return byte_ids("\n\n".join(passages[:-3])), held_out[:4096]


def build(kind: str, seed: int, channels: int = 64, depth: int = 2) -> MambaLM | Mamba2LM:
    """An untrained model: Mamba with 8 states a channel, or Mamba-2 with heads of 16 and 16 states in two groups.

    Raises:
        ValueError: another kind, or channels that are not a multiple of 16.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}")
    generator = torch.Generator().manual_seed(seed)
    if kind == "mamba":
        return MambaLM(BYTES, channels, depth, state_size=8, generator=generator)
    return Mamba2LM(BYTES, channels, depth, state_size=16, head_size=16, num_groups=2, generator=generator)


def train(model: MambaLM | Mamba2LM, seed: int, steps: int, length: int = 64, batch_size: int = 16) -> float:
    """Train on windows of the corpus, in place; returns the last round's loss, in nats a byte."""
    settings = {"lr": 5e-3, "schedule": "cosine", "warmup": steps // 10, "clip": 1.0, "show_progress": False}
    generator = torch.Generator().manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes threads only wait for each other
    try:
        history = train_on_tokens(
            model, corpus()[0], steps=steps, length=length, batch_size=batch_size, generator=generator, **settings
        )
    finally:
        torch.set_num_threads(threads)
    return history.rows[-1]["loss"]


def trained(kind: str, seed: int = 0, steps: int = 200, channels: int = 64, depth: int = 2) -> MambaLM | Mamba2LM:
    """A trained model; trained when first asked for, later a copy."""
    return copy.deepcopy(_trained(kind, seed, steps, channels, depth))


@cache
def _trained(kind: str, seed: int, steps: int, channels: int, depth: int) -> MambaLM | Mamba2LM:
    model = build(kind, seed, channels, depth)
    train(model, seed, steps)
    return model.eval()
