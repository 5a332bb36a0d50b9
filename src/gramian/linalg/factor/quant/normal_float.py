r"""NormalFloat blocks: codes on the quantiles of a normal, a scale for each block, scales quantized again, bits packed.

A block of `block` numbers is divided by its largest magnitude and rounded to a codebook of \(2^b\) values whose
spacing follows a normal's density. The scales in turn go, `scale_block` at a time, to unsigned integers of
`scale_bits` bits. A number then takes \(b + b_0 / B_0 + b_1 / (B_0 B_1)\) bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

__all__ = [
    "BlockFormat", "PackedBlocks", "dequantize_blocks", "normal_float", "pack_bits", "quantize_blocks", "round_blocks",
    "unpack_bits",
]  # fmt: skip

OFFSET = 0.9677083
"""The outermost quantile of the NF4 codebook: 1 − (1/32 + 1/30) / 2."""

BITS = (2, 3, 4, 8)
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def normal_float(bits: int, offset: float = OFFSET) -> Float[Tensor, " codes"]:
    r"""The \(2^b\) values of NormalFloat: quantiles of a normal, scaled to [−1, 1], with an exact 0.

    \(2^{b-1}\) quantiles from 1 − offset to ½ and \(2^{b-1} + 1\) from ½ to offset, the common one once.

    Raises:
        ValueError: bits outside 2 … 8, or an offset outside (½, 1).

    Source: Dettmers et al., QLoRA (2023), section 3; other widths as in Guo et al., LQ-LoRA (2023).

    >>> normal_float(2).round(decimals=3)
    tensor([-1.0000,  0.0000,  0.3380,  1.0000])
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits} is not between 2 and 8")
    if not 0.5 < offset < 1:
        raise ValueError(f"offset={offset} is a quantile between 0.5 and 1")
    half = 2 ** (bits - 1)
    left = torch.linspace(1 - offset, 0.5, half, dtype=torch.float64)[:-1]
    right = torch.linspace(0.5, offset, half + 1, dtype=torch.float64)
    values = torch.special.ndtri(torch.cat((left, right)))
    values = values / values[-1]
    values[half - 1], values[0], values[-1] = 0.0, -1.0, 1.0
    return values.float()


@dataclass(frozen=True)
class BlockFormat:
    """How a matrix is stored in blocks.

    Args:
        bits: of a code: 2, 3, 4 or 8.
        block: numbers that share a scale.
        scale_bits: bits of a quantized scale: 2, 3, 4 or 8; None keeps scales as floats.
        scale_block: scales that share a second scale.
        scale_dtype: of what stays a float: ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: anything else.
    """

    bits: int = 4
    block: int = 64
    scale_bits: int | None = 8
    scale_block: int = 256
    scale_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.bits not in BITS or (self.scale_bits is not None and self.scale_bits not in BITS):
            raise ValueError(f"bits={self.bits}, scale_bits={self.scale_bits}: each is one of {BITS}")
        if self.block < 1 or self.scale_block < 1:
            raise ValueError(f"block={self.block} and scale_block={self.scale_block} must be at least 1")
        if self.scale_dtype not in _DTYPES:
            raise ValueError(f"scale_dtype={self.scale_dtype!r} is not one of {', '.join(_DTYPES)}")

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.scale_dtype]

    @property
    def bits_per_number(self) -> float:
        r"""\(b + b_0/B_0 + b_1/(B_0 B_1)\), or \(b + b_1/B_0\) where scales stay floats.

        >>> BlockFormat(4, 64, 8, 256, "float32").bits_per_number
        4.126953125
        """
        wide = 8 * self.dtype.itemsize
        if self.scale_bits is None:
            return self.bits + wide / self.block
        return self.bits + self.scale_bits / self.block + wide / (self.block * self.scale_block)

    def check(self, count: int) -> None:
        """Raises ValueError where `count` numbers do not fill whole blocks."""
        if count % self.block:
            raise ValueError(f"block={self.block} does not divide the {count} numbers")
        if self.scale_bits is not None and count // self.block % self.scale_block:
            raise ValueError(f"scale_block={self.scale_block} does not divide the {count // self.block} scales")


class PackedBlocks(NamedTuple):
    """A quantized matrix: packed codes, scales (packed, or floats), second scales and their offset."""

    codes: UInt8[Tensor, " bytes"]
    scales: Shaped[Tensor, " scales"]
    second: Float[Tensor, " second"]
    offset: Float[Tensor, " one_or_none"]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self)


def quantize_blocks(x: Float[Tensor, "*shape"], fmt: BlockFormat) -> PackedBlocks:
    r"""Quantize and pack.

    Scales \(s_k\) are stored as \(m + t\,u\) with one m, the least scale of the matrix, for all (so that none
    becomes 0 but where it was) and integers u; the codes are those of \(x / \hat s\), the scales as they come back.

    Raises:
        ValueError: blocks that do not divide the number of elements, or NaN or infinity.
    """
    codes, scales, second, offset = _codes(x, fmt)
    kept = scales.to(fmt.dtype) if fmt.scale_bits is None else pack_bits(scales.to(torch.uint8), fmt.scale_bits)
    return PackedBlocks(pack_bits(codes.flatten(), fmt.bits), kept, second, offset)


def dequantize_blocks(packed: PackedBlocks, shape: tuple[int, ...], fmt: BlockFormat) -> Float[Tensor, "*shape"]:
    """The matrix that the blocks stand for, in float32.

    Raises:
        ValueError: a shape or a format that the bytes do not fill.
    """
    count = math.prod(shape)
    fmt.check(count)
    blocks = count // fmt.block
    codes = unpack_bits(packed.codes, fmt.bits, count)
    scales = packed.scales if fmt.scale_bits is None else unpack_bits(packed.scales, fmt.scale_bits, blocks)
    return _values(codes.reshape(blocks, fmt.block), scales, packed.second, packed.offset, fmt).reshape(shape)


def round_blocks(x: Float[Tensor, "*shape"], fmt: BlockFormat) -> Float[Tensor, "*shape"]:
    """What `x` becomes when it is quantized and dequantized; without the packing in between.

    Raises:
        ValueError: as `quantize_blocks`.
    """
    return _values(*_codes(x, fmt), fmt).reshape(x.shape).to(x.dtype)


def pack_bits(codes: UInt8[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Codes of `bits` bits each, eight of them in `bits` bytes, lowest bits first.

    Raises:
        ValueError: bits outside 1 … 8, or a code that does not fit.

    >>> pack_bits(torch.tensor([1, 2, 3], dtype=torch.uint8), 2).tolist()
    [57, 0]
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits} is not between 1 and 8")
    if len(codes) and int(codes.max()) >= 2**bits:
        raise ValueError(f"code {int(codes.max())} does not fit into {bits} bits")
    if bits == 8:
        return codes.clone()
    groups = torch.nn.functional.pad(codes, (0, -len(codes) % 8)).reshape(-1, 8).long()
    value = (groups << (bits * torch.arange(8, device=codes.device))).sum(1, keepdim=True)
    return (value >> (8 * torch.arange(bits, device=codes.device)) & 255).to(torch.uint8).flatten()


def unpack_bits(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> UInt8[Tensor, " count"]:
    """The first `count` codes that `pack_bits` packed.

    Raises:
        ValueError: fewer or more bytes than `count` codes take.
    """
    expected = count if bits == 8 else -(-count // 8) * bits
    if len(packed) != expected:
        raise ValueError(f"{count} codes of {bits} bits take {expected} bytes, got {len(packed)}")
    if bits == 8:
        return packed.clone()
    shifts = 8 * torch.arange(bits, device=packed.device)
    value = (packed.reshape(-1, bits).long() << shifts).sum(1, keepdim=True)
    codes = value >> (bits * torch.arange(8, device=packed.device)) & (2**bits - 1)
    return codes.to(torch.uint8).flatten()[:count]


@cache
def _codebook(bits: int) -> tuple[Tensor, Tensor]:
    values = normal_float(bits)
    return values, (values[1:] + values[:-1]) / 2


def _codes(x: Tensor, fmt: BlockFormat) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (blocks, block), scales (integers or floats), second scales, offset."""
    fmt.check(x.numel())
    work = x.detach().float().reshape(-1, fmt.block)
    exact = torch.linalg.vector_norm(work, ord=math.inf, dim=1)
    if not bool(torch.isfinite(exact).all()):
        raise ValueError("NaN or infinity cannot be quantized")
    if fmt.scale_bits is None:
        scales, second, offset = exact.to(fmt.dtype), exact.new_zeros(0, dtype=fmt.dtype), exact.new_zeros(0)
    else:
        largest = 2**fmt.scale_bits - 1
        offset = exact.min().reshape(1)
        above = (exact - offset).reshape(-1, fmt.scale_block)
        second = above.amax(1).to(fmt.dtype)
        divisor = second.float().clamp(min=torch.finfo(torch.float32).tiny)
        scales = (above / divisor[:, None] * largest).round_().clamp_(0, largest).flatten()
    scale = _scale(scales, second, offset, fmt)
    if not bool(torch.isfinite(scale).all()):
        raise ValueError(f"the largest scale, {float(exact.max()):g}, does not fit into {fmt.scale_dtype}")
    _, edges = _codebook(fmt.bits)
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = torch.bucketize(work / divisor[:, None], edges.to(work.device), out_int32=True)
    return codes.to(torch.uint8), scales, second, offset


def _scale(scales: Tensor, second: Tensor, offset: Tensor, fmt: BlockFormat) -> Tensor:
    if fmt.scale_bits is None:
        return scales.float()
    steps = scales.float().reshape(-1, fmt.scale_block) / (2**fmt.scale_bits - 1)
    return (steps * second.float()[:, None]).flatten() + offset


def _values(codes: Tensor, scales: Tensor, second: Tensor, offset: Tensor, fmt: BlockFormat) -> Tensor:
    values, _ = _codebook(fmt.bits)
    return values.to(codes.device)[codes.int()] * _scale(scales, second, offset, fmt)[:, None]
