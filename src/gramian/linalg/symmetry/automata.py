"""Automata whose letters permute their states, and the Householder products that run them.

A permutation of m points is a product of at most m − 1 transpositions, and a transposition (i j) is the reflection
I − 2 k kᵀ with k = (e_i − e_j) / √2. A linear recurrence whose transitions are products of generalized Householder
matrices with β up to 2 therefore runs any such automaton exactly, with the state written as a unit vector.

Source: Grazzi et al., "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues", 2024, section 4.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gramian.linalg.scan.householder import householder_scan

__all__ = ["Realization", "cyclic_group", "householder_realization", "run_automaton", "symmetric_group"]


@dataclass(frozen=True)
class Realization:
    """The factors that a recurrence applies at each letter.

    Attributes:
        keys: (letters, factors, points) unit vectors; the first factor acts first.
        beta: (letters, factors): 2 for a reflection, 0 for a factor that does nothing.
    """

    keys: Float[Tensor, "letters factors points"]
    beta: Float[Tensor, "letters factors"]

    def transition(self, letter: int) -> Float[Tensor, "points points"]:
        """The product of a letter's factors, as a dense matrix."""
        matrix = torch.eye(self.keys.shape[-1], dtype=self.keys.dtype)
        for k, b in zip(self.keys[letter], self.beta[letter], strict=True):
            matrix = matrix - b * torch.outer(k, k @ matrix)
        return matrix

    def run(self, words: Int[Tensor, "samples length"], start: int = 0) -> Int[Tensor, "samples length"]:
        """The automaton's state after each letter, by `householder_scan` from the unit vector of `start`.

        The states are read by asking for each coordinate at each token and taking the largest.
        """
        samples, length = words.shape
        points = self.keys.shape[-1]
        state = self.keys.new_zeros(1, points, 1)
        state[0, start] = 1
        k, beta = self.keys[words], self.beta[words]
        # one head for each coordinate that is read
        q = torch.eye(points, dtype=k.dtype)[None, :, None].expand(samples, points, length, points)
        k = k[:, None].expand(-1, points, -1, -1, -1)
        beta = beta[:, None].expand(-1, points, -1, -1)
        v = k.new_zeros(*k.shape[:-1], 1)
        y, _ = householder_scan(q, k, v, beta, state=state.expand(samples, points, -1, -1))
        return y[..., 0].argmax(1)


def householder_realization(
    permutations: Int[np.ndarray, "letters points"], dtype: torch.dtype = torch.float32
) -> Realization:
    """The Householder factors of each letter of a permutation automaton.

    Letter a takes state i to ``permutations[a, i]``. A permutation with c cycles (fixed points among them) takes
    points − c reflections, the least possible; shorter ones are filled up with β = 0.

    Raises:
        ValueError: a row that is not a permutation of 0 … points − 1, or fewer than two points.

    >>> swap = householder_realization(np.array([[0, 1], [1, 0]]))       # parity: letter 1 swaps
    >>> swap.run(torch.tensor([[1, 1, 0, 1]]))
    tensor([[1, 0, 0, 1]])
    >>> householder_realization(cyclic_group(3)).beta.shape              # a 3-cycle is two reflections
    torch.Size([3, 2])
    """
    permutations = np.asarray(permutations)
    points = permutations.shape[-1]
    if points < 2:
        raise ValueError(f"an automaton to realize has at least two states; got {points}")
    for row in permutations:
        if sorted(row.tolist()) != list(range(points)):
            raise ValueError(f"{row.tolist()} is not a permutation of 0 … {points - 1}: its letter has no inverse")
    products = [_transpositions(row.tolist()) for row in permutations]
    factors = max(1, max(len(p) for p in products))
    keys = torch.zeros(len(products), factors, points, dtype=dtype)
    beta = torch.zeros(len(products), factors, dtype=dtype)
    keys[..., 0] = 1  # a factor with β = 0 needs a key all the same
    for letter, product in enumerate(products):
        for j, (a, b) in enumerate(product):
            keys[letter, j] = 0
            keys[letter, j, a], keys[letter, j, b] = math.sqrt(0.5), -math.sqrt(0.5)
            beta[letter, j] = 2
    return Realization(keys, beta)


def _transpositions(permutation: list[int]) -> list[tuple[int, int]]:
    """Transpositions whose product, the first acting first, takes i to ``permutation[i]``."""
    product, seen = [], set()
    for start in range(len(permutation)):
        cycle = []
        point = start
        while point not in seen:
            seen.add(point)
            cycle.append(point)
            point = permutation[point]
        # (c0 c1 … cr): swapping c0 with c1, then c0 with c2, … takes c0 to c1, c1 to c2, …
        product += [(cycle[0], other) for other in cycle[1:]]
    return product


def run_automaton(
    transitions: Int[np.ndarray, "letters states"], words: Int[np.ndarray, "samples length"], start: int = 0
) -> Int[np.ndarray, "samples length"]:
    """The state after each letter of each word: ``state = transitions[letter, state]``.

    Raises:
        ValueError: a letter or a start that the automaton does not have.
    """
    letters, states = transitions.shape
    if words.size and not (words.min() >= 0 and words.max() < letters):
        raise ValueError(f"letters must lie in 0 … {letters - 1}; got {words.min()} … {words.max()}")
    if not 0 <= start < states:
        raise ValueError(f"start={start}: the automaton's states are 0 … {states - 1}")
    visited = np.empty(words.shape, dtype=np.int64)
    state = np.full(words.shape[0], start)
    for t in range(words.shape[1]):
        state = transitions[words[:, t], state]
        visited[:, t] = state
    return visited


def cyclic_group(order: int) -> Int[np.ndarray, "order order"]:
    """All rotations of `order` points: row a takes i to (i + a) mod order."""
    if order < 2:
        raise ValueError(f"order={order}: counting needs a modulus of at least 2")
    points = np.arange(order)
    return (points[:, None] + points) % order


def symmetric_group(points: int) -> Int[np.ndarray, "letters points"]:
    """All permutations of `points` points, in lexicographic order (the identity first)."""
    if not 2 <= points <= 8:
        raise ValueError(f"points={points}: listing all permutations is for 2 to 8 points")
    return np.array(list(itertools.permutations(range(points))))
