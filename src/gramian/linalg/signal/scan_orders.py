r"""Scan orders of visual state-space models: the sequences in which a grid of patches is read.

A name stands for one or more sequences. Reading forward and backward, along rows and columns, along diagonals, in
windows, with gaps, or along a curve that never jumps are the choices that the models differ in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from gramian.linalg.signal.routes import snake

__all__ = ["SCAN_ORDERS", "hilbert", "scan_order"]


def _cells(height: int, width: int) -> Tensor:
    return torch.arange(height * width).view(height, width)


def _both_ways(*orders: Tensor) -> list[Tensor]:
    """Each order and its reverse."""
    return [way for order in orders for way in (order, order.flip(0))]


def _windows(height: int, width: int, side: int = 2) -> list[Tensor]:
    """Window after window, each row by row."""
    cells = _cells(height, width)
    rows = [cells[i : i + side, j : j + side].flatten() for i in range(0, height, side) for j in range(0, width, side)]
    return [torch.cat(rows)]


def _skipping(height: int, width: int, step: int = 2) -> list[Tensor]:
    """Every `step`-th cell of every `step`-th row; then the grid shifted by one, until all are read."""
    cells = _cells(height, width)
    return [torch.cat([cells[i::step, j::step].flatten() for i in range(step) for j in range(step)])]


def _diagonals(height: int, width: int, anti: bool = False) -> Tensor:
    """Diagonal after diagonal, each from above."""
    cells = _cells(height, width).flip(1) if anti else _cells(height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return cells.flatten()[((rows + columns) * (height + width) + rows).flatten().argsort()]


def _zigzag(height: int, width: int) -> Tensor:
    """Diagonals that turn at each end, as JPEG reads its coefficients."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    diagonal = rows + columns
    within = torch.where(diagonal % 2 == 0, -rows, rows)
    return (diagonal * 2 * (height + width) + within).flatten().argsort()


def hilbert(height: int, width: int) -> Int[Tensor, " cells"]:
    """The cells of a square along Hilbert's curve: neighbours in the sequence are neighbours in the grid.

    Raises:
        ValueError: sides that are not one and the same power of two.

    >>> hilbert(2, 2)
    tensor([0, 2, 3, 1])
    """
    if height != width or height < 1 or height & (height - 1):
        raise ValueError(
            f"a grid of {height} × {width}: Hilbert's curve needs a square with a power of two as its side"
        )
    places = torch.zeros(1, 2, dtype=torch.long)  # (x, y) along the curve
    side = 1
    while side < height:
        turned = places.flip(1)
        places = torch.cat((
            turned, places + torch.tensor([0, side]), places + torch.tensor([side, side]),
            torch.tensor([2 * side - 1, side - 1]) - turned,
        ))  # fmt: skip
        side *= 2
    return places[:, 1] * width + places[:, 0]


def _cross(height: int, width: int) -> list[Tensor]:
    cells = _cells(height, width)
    return _both_ways(cells.flatten(), cells.mT.flatten())


SCAN_ORDERS: dict[str, Callable[[int, int], list[Tensor]]] = {
    "raster": lambda h, w: [_cells(h, w).flatten()],
    "bidirectional": lambda h, w: _both_ways(_cells(h, w).flatten()),
    "cross": _cross,
    "continuous": lambda h, w: _both_ways(snake(h, w), snake(h, w, columns=True)),
    "local": _windows,
    "atrous": _skipping,
    "zigzag": lambda h, w: _both_ways(_zigzag(h, w)),
    "omnidirectional": lambda h, w: [
        *_cross(h, w), *_both_ways(_diagonals(h, w), _diagonals(h, w, anti=True)),
    ],
    "hilbert": lambda h, w: _both_ways(hilbert(h, w)),
}  # fmt: skip
"""Functions of height and width to the sequences of a name."""


def scan_order(name: str, height: int, width: int) -> Int[Tensor, "sequences cells"]:
    """The sequences in which a grid is read: numbers of cells, counted row by row.

    Args:
        name: ``raster`` (rows), ``bidirectional`` (rows, both ways), ``cross`` (rows and columns, both ways),
            ``continuous`` (rows and columns that turn at their ends, both ways), ``local`` (2 × 2 windows),
            ``atrous`` (every second cell, four times), ``zigzag`` (diagonals that turn), ``omnidirectional`` (rows,
            columns and both diagonals, both ways), ``hilbert``.

    Raises:
        ValueError: an unknown name, a side below 1, or a grid that has no Hilbert curve.

    Source: the lists in Xu et al., "A Survey on Visual Mamba" (2024), and Zhang et al. (2024) of the same kind; windows
    and gaps of two are our choice.

    >>> scan_order("cross", 2, 2)
    tensor([[0, 1, 2, 3],
            [3, 2, 1, 0],
            [0, 2, 1, 3],
            [3, 1, 2, 0]])
    """
    if name not in SCAN_ORDERS:
        raise ValueError(f"scan order {name!r} is not known; there are {', '.join(SCAN_ORDERS)}")
    if height < 1 or width < 1:
        raise ValueError(f"a grid of {height} × {width} has no cell: both sides must be at least 1")
    return torch.stack(SCAN_ORDERS[name](height, width))
