"""Small environments of gymnasium, drawn by numpy from their true state."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy
from jaxtyping import Float, UInt8
from numpy import ndarray

from gramian.lab import Missing

__all__ = ["draw_cart_pole", "draw_lake", "pixel_environment"]

INK = {b"S": (190, 205, 220), b"F": (225, 235, 245), b"H": (35, 60, 110), b"G": (60, 170, 90)}
WALKER, CART, POLE, GROUND = (220, 70, 50), (50, 70, 110), (220, 120, 40), (240, 240, 240)


def draw_lake(cells: ndarray, position: int, size: int = 16) -> UInt8[ndarray, "3 size size"]:
    """A frozen lake from above: ice, holes, the goal, and a square for who walks on it.

    Args:
        cells: rows and columns of letters ``S``, ``F``, ``H`` and ``G`` (bytes).
        position: cell of the walker, counted along the rows.
        size: pixels a side.

    Raises:
        ValueError: cells that are not square, a size that is not a multiple of their number a side, or less than 3
            pixels a cell.

    >>> draw_lake(numpy.array([[b"S", b"G"], [b"F", b"H"]]), 0, 6)[0, ::3, ::3]
    array([[220,  60],
           [225,  35]], dtype=uint8)
    """
    rows, columns = cells.shape
    side = size // rows
    if rows != columns or size % rows or side < 3:
        raise ValueError(
            f"{rows} × {columns} cells at size={size}: square, size a multiple of the rows, 3 pixels a cell"
        )
    colours = numpy.array([[INK[bytes(cell)] for cell in row] for row in cells], dtype=numpy.uint8)
    picture = colours.repeat(side, 0).repeat(side, 1)
    top, left, rim = position // columns * side, position % columns * side, side // 6
    picture[top + rim : top + side - rim, left + rim : left + side - rim] = WALKER
    return numpy.ascontiguousarray(picture.transpose(2, 0, 1))


def draw_cart_pole(state: Float[ndarray, "4"], size: int = 32) -> UInt8[ndarray, "3 size size"]:
    """A cart and its pole from the side; velocities cannot be seen.

    Args:
        state: place in metres (the track is 4.8 m wide), velocity, angle in radians, angular velocity.
        size: pixels a side.

    Raises:
        ValueError: fewer than 16 pixels a side.
    """
    if size < 16:
        raise ValueError(f"size={size}: a pole needs at least 16 pixels a side")
    place, _, angle, _ = (float(value) for value in state)
    unit = size / 4.8
    x, y = (place + 2.4) * unit, 0.8 * size
    rows, columns = numpy.mgrid[:size, :size] + 0.5
    picture = numpy.broadcast_to(numpy.array(GROUND, float)[:, None, None], (3, size, size))
    length = 0.65 * size
    along = numpy.array([numpy.sin(angle), -numpy.cos(angle)])
    reach = numpy.clip((columns - x) * along[0] + (rows - y) * along[1], 0, length)
    away = numpy.hypot(columns - x - reach * along[0], rows - y - reach * along[1])
    for near, colour in (
        (away / (0.03 * size), POLE),
        (numpy.maximum(abs(columns - x) / (0.1 * size), abs(rows - y) / (0.06 * size)), CART),
    ):
        cover = numpy.clip(1.5 - near, 0, 1)  # edges fade over half a width, so that small motions show
        picture = picture * (1 - cover) + numpy.array(colour, float)[:, None, None] * cover
    return picture.round().astype(numpy.uint8)


def _lake(world: Any, state: Any, size: int) -> ndarray:
    return draw_lake(world.desc, int(state), size)


def _cart_pole(world: Any, state: Any, size: int) -> ndarray:
    return draw_cart_pole(numpy.asarray(state, dtype=numpy.float64), size)


DRAWN = {
    "FrozenLake-v1": (_lake, 12),
    "FrozenLake8x8-v1": (_lake, 24),
    "CartPole-v1": (_cart_pole, 32),
}
"""Name of the environment → how it is drawn, and at what size."""


def pixel_environment(name: str, size: int | None = None, **settings: Any) -> Any:
    """An environment of gymnasium whose observations are pictures, (3, size, size) in 0 … 255.

    Args:
        name: one of `DRAWN`.
        size: pixels a side; by default what suits the environment.
        settings: handed to ``gymnasium.make``, such as ``is_slippery=False``.

    Raises:
        ValueError: an environment that cannot be drawn here.
        Missing: gymnasium is not installed.
    """
    if name not in DRAWN:
        raise ValueError(f"{name!r} cannot be drawn; choose one of {', '.join(DRAWN)}")
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise Missing(f"{name} needs gymnasium: pip install 'gramian[control]'") from None
    from gramian.data.environments.wrapper import Pixels

    draw, usual = DRAWN[name]
    return Pixels(gymnasium.make(name, **settings), partial(draw, size=size or usual))
