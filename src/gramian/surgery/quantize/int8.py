"""LLM.int8(): the linear layers of a trained network in int8, without a calibration."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from gramian.nn.quantized.int8 import Int8Linear
from gramian.surgery.swap import Handle, swap

__all__ = ["to_int8"]


def to_int8(
    model: nn.Module, layers: str | Iterable[str] = "*", threshold: float | int = 6.0, keep_float: bool = False
) -> Handle:
    """Replace linear layers by `Int8Linear`, in place; ``undo()`` of the handle restores them, ``merge()`` dequantizes.

    Args:
        layers: patterns of the layers' names. An output layer tied to the embedding is better left out: it would no
            longer be tied.
        threshold, keep_float: as of `Int8Linear`.

    Raises:
        ValueError: no layer matches, NaN or infinity in a weight, a threshold below 0.

    Source: Dettmers et al., LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale (2022).
    """
    return swap(model, layers, lambda name, layer: _quantized(name, layer, threshold, keep_float), nn.Linear)


def _quantized(name: str, layer: nn.Module, threshold: float | int, keep_float: bool) -> Int8Linear:
    assert isinstance(layer, nn.Linear)
    try:
        return Int8Linear.from_float(layer, threshold, keep_float)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
