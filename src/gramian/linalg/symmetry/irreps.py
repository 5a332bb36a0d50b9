r"""Irreducible representations of the symmetric groups in Young's orthogonal form, and multiplication tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["check_group_table", "cyclic_table", "irreducible", "partitions", "standard_tableaux", "symmetric_table"]


def partitions(n: int) -> list[tuple[int, ...]]:
    """The partitions of n, from (n) to (1, …, 1): one for every irreducible representation of the symmetric group.

    Raises:
        ValueError: n below 1.

    >>> partitions(4)
    [(4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1)]
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")

    def parts(rest: int, largest: int) -> list[tuple[int, ...]]:
        if rest == 0:
            return [()]
        return [(first, *more) for first in range(min(rest, largest), 0, -1) for more in parts(rest - first, first)]

    return parts(n, n)


def standard_tableaux(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The standard tableaux of a shape, each written as the row of 1, of 2, …; their number is the dimension.

    Raises:
        ValueError: a shape whose rows grow or are empty.

    >>> standard_tableaux((2, 1))
    [(0, 0, 1), (0, 1, 0)]
    """
    if not shape or min(shape) < 1 or list(shape) != sorted(shape, reverse=True):
        raise ValueError(f"shape={shape} must be rows of falling length, at least one and none empty")
    found: list[tuple[int, ...]] = []

    def fill(filled: list[int], rows: tuple[int, ...]) -> None:
        if len(rows) == sum(shape):
            found.append(rows)
            return
        for row, length in enumerate(shape):
            if filled[row] < length and (row == 0 or filled[row - 1] > filled[row]):
                filled[row] += 1
                fill(filled, (*rows, row))
                filled[row] -= 1

    fill([0] * len(shape), ())
    return found


def _swap(shape: tuple[int, ...], at: int) -> Float[np.ndarray, "dim dim"]:
    """What the transposition (at, at + 1) does, in the basis of standard tableaux."""
    basis = standard_tableaux(shape)
    place = {rows: index for index, rows in enumerate(basis)}
    matrix = np.zeros((len(basis), len(basis)))
    for rows, index in place.items():
        columns = [rows[:i].count(rows[i]) for i in (at, at + 1)]
        content = [c - r for c, r in zip(columns, rows[at : at + 2])]
        distance = content[1] - content[0]
        matrix[index, index] = 1 / distance
        if abs(distance) > 1:
            swapped = (*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :])
            matrix[place[swapped], index] = math.sqrt(1 - 1 / distance**2)
    return matrix


def irreducible(shape: tuple[int, ...]) -> Float[Tensor, "order dim dim"]:
    r"""The irreducible representation of a shape: an orthogonal matrix for every permutation.

    Permutations are in the order of ``itertools.permutations`` (as in `symmetric_table`), and
    \(R(a \circ b) = R(a)\,R(b)\).

    Raises:
        ValueError: as `standard_tableaux`, or a shape of more than 6 squares (720 permutations).

    Source: Young's orthogonal form; James and Kerber, "The Representation Theory of the Symmetric Group" (1981), 3.4.

    >>> irreducible((1, 1, 1)).flatten()
    tensor([ 1., -1., -1.,  1.,  1., -1.], dtype=torch.float64)
    """
    n = sum(shape)
    if n > 6:
        raise ValueError(f"shape={shape} has {n} squares; up to 6 (720 permutations) are served")
    swaps = [_swap(shape, at) for at in range(n - 1)]
    dim = len(standard_tableaux(shape))
    matrices = []
    for permutation in itertools.permutations(range(n)):
        matrix, left = np.eye(dim), list(permutation)
        # p ∘ s exchanges two neighbours of the list: sort it, and the swaps used multiply to p from the right
        for end in range(n - 1, 0, -1):
            for at in range(end):
                if left[at] > left[at + 1]:
                    left[at], left[at + 1] = left[at + 1], left[at]
                    matrix = swaps[at] @ matrix
        matrices.append(matrix)
    return torch.from_numpy(np.stack(matrices))


def symmetric_table(n: int) -> Int[Tensor, "order order"]:
    """Number of a ∘ b (first b, then a) for permutations a, b of n points, numbered as ``itertools.permutations``.

    Raises:
        ValueError: n outside 1 … 6.
    """
    if not 1 <= n <= 6:
        raise ValueError(f"n={n} must lie in 1 … 6")
    members = list(itertools.permutations(range(n)))
    number = {p: i for i, p in enumerate(members)}
    return torch.tensor([[number[tuple(a[k] for k in b)] for b in members] for a in members])


def cyclic_table(order: int) -> Int[Tensor, "order order"]:
    """(a + b) mod `order`.

    Raises:
        ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"order={order} must be at least 1")
    numbers = torch.arange(order)
    return (numbers[:, None] + numbers) % order


def check_group_table(table: Int[Tensor, "order order"]) -> None:
    """Whether a multiplication table is that of a group.

    Raises:
        ValueError: products outside 0 … order − 1, a row or column that repeats itself, no neutral element, or
            products that depend on the brackets.
    """
    order = len(table)
    numbers = torch.arange(order, device=table.device)
    if not bool(((table >= 0) & (table < order)).all()):
        raise ValueError(f"a table of {order} elements holds a product outside 0 … {order - 1}")
    for axis in (0, 1):
        if not bool((table.sort(axis).values == (numbers[:, None] if axis == 0 else numbers)).all()):
            raise ValueError("not a group: some product can be reached in two ways (a row or column repeats)")
    if not bool(((table == numbers).all(1) & (table == numbers[:, None]).all(0)).any()):
        raise ValueError("not a group: no element is neutral")
    if not bool((table[table] == table[:, table]).all()):
        raise ValueError("not a group: (a b) c differs from a (b c)")
