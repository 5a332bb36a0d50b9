"""Orders in which a grid is read as a sequence."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["inverse", "snake"]


def snake(height: int, width: int, columns: bool = False) -> Int[Tensor, " cells"]:
    """The cells of a grid (numbered row by row) along rows that turn at each end, so that neighbours stay neighbours.

    Args:
        columns: go along columns instead.

    Raises:
        ValueError: a side below 1.

    >>> snake(2, 3)
    tensor([0, 1, 2, 5, 4, 3])
    >>> snake(2, 3, columns=True)
    tensor([0, 3, 4, 1, 2, 5])
    """
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} × {width} has no cell: both sides must be at least 1")
    cells = torch.arange(height * width).view(height, width)
    cells = (cells.mT if columns else cells).clone()
    cells[1::2] = cells[1::2].flip(1)
    return cells.flatten()


def inverse(order: Int[Tensor, " cells"]) -> Int[Tensor, " cells"]:
    """Where each cell stands in `order`: ``sequence[inverse(order)]`` undoes ``cells[order]``.

    Raises:
        ValueError: an order that does not name each cell once.

    >>> inverse(torch.tensor([2, 0, 1]))
    tensor([1, 2, 0])
    """
    places = order.argsort()
    if not bool((order[places] == torch.arange(len(order), device=order.device)).all()):
        raise ValueError(f"an order of {len(order)} cells must hold each of 0 … {len(order) - 1} once")
    return places
