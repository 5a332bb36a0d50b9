"""Random deterministic state machines, and words that drive them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int

from gramian.data.synthetic.automata import Words
from gramian.linalg.symmetry import automata

__all__ = ["machine_words", "random_machine"]


def random_machine(
    letters: int, states: int, generator: torch.Generator | None = None, invertible: bool = False
) -> Int[np.ndarray, "letters states"]:
    """A transition table with uniform entries: letter a takes state i to ``table[a, i]``.

    Args:
        invertible: every letter permutes the states; otherwise letters merge states, as uniform draws do.

    Raises:
        ValueError: no letter, or fewer than two states.

    >>> random_machine(2, 4, torch.Generator().manual_seed(0), invertible=True).shape
    (2, 4)
    """
    if letters < 1 or states < 2:
        raise ValueError(f"letters={letters} must be at least 1 and states={states} at least 2")
    if invertible:
        return np.stack([torch.randperm(states, generator=generator).numpy() for _ in range(letters)])
    return torch.randint(states, (letters, states), generator=generator).numpy()


def machine_words(
    table: Int[np.ndarray, "letters states"],
    samples: int,
    length: int,
    generator: torch.Generator | None = None,
    start: int = 0,
) -> Words:
    """Uniform letters, and the state of the machine after each.

    Raises:
        ValueError: sizes below 1, or a start that the machine does not have.
    """
    if samples < 1 or length < 1:
        raise ValueError(f"samples={samples} and length={length} must be at least 1")
    tokens = torch.randint(len(table), (samples, length), generator=generator)
    states = automata.run_automaton(table, tokens.numpy(), start)
    return Words(tokens, torch.from_numpy(states), len(table), table.shape[1])
