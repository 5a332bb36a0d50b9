"""Words of regular (and one context-free) languages, and the state that must be tracked after each letter.

Every generator gives integer tokens (samples, length) and a target for each position, so that a model can be trained
and tested at every prefix. Where nothing is asked, the target is `IGNORE`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gramian.linalg.symmetry import automata

__all__ = ["IGNORE", "Words", "group_words", "mod_counting", "modular_arithmetic", "parity"]

IGNORE = -100
"""The target where none is asked; what `torch.nn.functional.cross_entropy` ignores."""


class Words(NamedTuple):
    """Words and what must be known of each prefix.

    Attributes:
        tokens: (samples, length).
        targets: (samples, length), the class after each token, or `IGNORE`.
        letters: how many different tokens there are.
        classes: how many different targets there are.
    """

    tokens: Int[Tensor, "samples length"]
    targets: Int[Tensor, "samples length"]
    letters: int
    classes: int


def parity(samples: int, length: int, generator: torch.Generator | None = None) -> Words:
    """Bits, and whether the number of ones so far is odd.

    >>> words = parity(1, 5, torch.Generator().manual_seed(0))
    >>> bool((words.targets == words.tokens.cumsum(1) % 2).all())
    True
    """
    return mod_counting(samples, length, 2, generator)


def mod_counting(samples: int, length: int, modulus: int = 3, generator: torch.Generator | None = None) -> Words:
    """Digits below `modulus`, and their running sum modulo `modulus`.

    Raises:
        ValueError: a modulus below 2, or sizes below 1.
    """
    tokens = _letters(samples, length, _at_least("modulus", modulus, 2), generator)
    return Words(tokens, tokens.cumsum(1) % modulus, modulus, modulus)


def group_words(
    samples: int, length: int, points: int = 5, generators_only: bool = False, generator: torch.Generator | None = None
) -> Words:
    """Words of permutations of `points` points, and the permutation that each prefix makes.

    The group of 5 points is not solvable: its word problem is the standard one that needs depth (or a recurrence with
    rich enough transitions).

    Args:
        generators_only: letters are a transposition and a long cycle only, instead of all permutations.

    Raises:
        ValueError: points not in 2 … 8, or sizes below 1.
    """
    elements = automata.symmetric_group(points)
    index = {tuple(row): i for i, row in enumerate(elements.tolist())}
    if generators_only:
        swap, turn = np.arange(points), np.roll(np.arange(points), -1)
        swap[[0, 1]] = [1, 0]
        alphabet = np.stack((swap, turn))
    else:
        alphabet = elements
    # the automaton of the group itself: after letter a, the product so far p becomes a ∘ p
    table = np.array([[index[tuple(a[p].tolist())] for p in elements] for a in alphabet])
    tokens = _letters(samples, length, len(alphabet), generator)
    states = automata.run_automaton(table, tokens.numpy(), start=index[tuple(range(points))])
    return Words(tokens, torch.from_numpy(states), len(alphabet), len(elements))


def modular_arithmetic(
    samples: int, length: int, modulus: int = 5, brackets: bool = False, generator: torch.Generator | None = None
) -> Words:
    """Sums and products of digits, and their value modulo `modulus`.

    Tokens: digits 0 … modulus − 1, then +, −, ×, then, with brackets, ( and ).

    Without brackets a word alternates digits and operators, × binds tighter, and the target at each digit is the
    value of the prefix (a regular language). With brackets every operation is in brackets, ``((2+3)×4)``, the word
    has length 4 k + 1, and the only target is the whole value, at the last token (context-free).

    Raises:
        ValueError: an even length (or, with brackets, one that is not 4 k + 1), a modulus below 2, sizes below 1.
    """
    _at_least("modulus", modulus, 2)
    if length < 1 or (brackets and length % 4 != 1) or length % 2 == 0:
        allowed = "4 k + 1 (1, 5, 9, …)" if brackets else "odd: digits and operators alternate"
        raise ValueError(f"length={length}: with brackets={brackets} the length is {allowed}")
    if brackets:
        return _bracketed(samples, length, modulus, generator)
    tokens = _letters(samples, length, modulus, generator)
    tokens[:, 1::2] = modulus + _letters(samples, length, 3, generator)[:, 1::2]
    # done: the sum of finished terms; term: the one being multiplied; at each digit the prefix is worth done + term
    done = torch.zeros(samples, dtype=torch.int64)
    term = tokens[:, 0].clone()
    targets = torch.full((samples, length), IGNORE)
    targets[:, 0] = term
    for t in range(2, length, 2):
        operator, digit = tokens[:, t - 1] - modulus, tokens[:, t]
        product = operator == 2
        done = torch.where(product, done, done + term) % modulus
        term = torch.where(product, term * digit, torch.where(operator == 0, digit, -digit)) % modulus
        targets[:, t] = (done + term) % modulus
    return Words(tokens, targets, modulus + 3, modulus)


def _bracketed(samples: int, length: int, modulus: int, generator: torch.Generator | None) -> Words:
    """Random binary expressions, every operation in brackets."""
    tokens = torch.empty(samples, length, dtype=torch.int64)
    targets = torch.full((samples, length), IGNORE)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    def expression(operations: int) -> tuple[list[int], int]:
        if operations == 0:
            digit = draw(modulus)
            return [digit], digit
        left_size = draw(operations)
        left, a = expression(left_size)
        right, b = expression(operations - 1 - left_size)
        operator = draw(3)
        value = (a + b, a - b, a * b)[operator] % modulus
        return [modulus + 3, *left, modulus + operator, *right, modulus + 4], value

    for i in range(samples):
        word, value = expression((length - 1) // 4)
        tokens[i] = torch.tensor(word)
        targets[i, -1] = value
    return Words(tokens, targets, modulus + 5, modulus)


def _letters(samples: int, length: int, letters: int, generator: torch.Generator | None) -> Tensor:
    """Uniform letters."""
    _at_least("samples", samples, 1)
    _at_least("length", length, 1)
    return torch.randint(letters, (samples, length), generator=generator)


def _at_least(name: str, value: int, low: int) -> int:
    if value < low:
        raise ValueError(f"{name}={value}: must be at least {low}")
    return value
