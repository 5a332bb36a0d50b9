r"""Affine blocks: \(x \approx m + s q\), \(q \in \{0, …, 2^b - 1\}\), a minimum m and a step s for each block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["AffineBlocks", "dequantize_affine", "quantize_affine"]


class AffineBlocks(NamedTuple):
    """Codes, and the step and minimum of each block."""

    codes: UInt8[Tensor, "blocks block"]
    step: Float[Tensor, " blocks"]
    minimum: Float[Tensor, " blocks"]


def quantize_affine(x: Float[Tensor, "*shape"], bits: int = 4, block: int = 32) -> AffineBlocks:
    r"""Round to nearest on each block's own grid: \(s = (\max - \min) / (2^b - 1)\), \(m = \min\).

    Raises:
        ValueError: bits outside 1 … 8, a block that does not divide the number of elements, NaN or infinity.

    >>> blocks = quantize_affine(torch.tensor([0.0, 1.0, 2.0, 3.0]), bits=2, block=4)
    >>> blocks.codes.tolist(), dequantize_affine(blocks, (4,)).tolist()
    ([[0, 1, 2, 3]], [0.0, 1.0, 2.0, 3.0])
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits} is not between 1 and 8")
    if block < 1 or x.numel() % block:
        raise ValueError(f"block={block} does not divide the {x.numel()} elements")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("NaN or infinity cannot be quantized")
    work = (x if x.dtype in (torch.float32, torch.float64) else x.float()).reshape(-1, block)
    minimum, maximum = work.amin(1), work.amax(1)
    step = (maximum - minimum) / (2**bits - 1)
    divisor = torch.where(step > 0, step, torch.ones_like(step))
    codes = ((work - minimum[:, None]) / divisor[:, None]).round_().clamp_(0, 2**bits - 1)
    return AffineBlocks(codes.to(torch.uint8), step, minimum)


def dequantize_affine(blocks: AffineBlocks, shape: tuple[int, ...]) -> Float[Tensor, "*shape"]:
    r"""\(m + s q\), in the given shape.

    Raises:
        ValueError: a shape of another number of elements.
    """
    values = blocks.minimum[:, None] + blocks.step[:, None] * blocks.codes.to(blocks.step.dtype)
    if values.numel() != torch.Size(shape).numel():
        raise ValueError(f"{values.numel()} elements do not fill the shape {shape}")
    return values.reshape(shape)
