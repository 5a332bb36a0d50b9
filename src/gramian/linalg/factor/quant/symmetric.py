r"""Symmetric integers with a scale that is known beforehand: \(x \approx s\,q\), \(|q| \le 2^{b-1}-1\)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from gramian.linalg.factor.quant.normal_float import pack_bits, unpack_bits

__all__ = [
    "largest_code", "pack_codes", "quantize_matrix", "spread_scales", "to_codes", "to_scale", "unpack_codes",
]  # fmt: skip


def largest_code(bits: int) -> int:
    """2^(bits − 1) − 1.

    Raises:
        ValueError: bits outside 2 … 8.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits}: symmetric codes take 2 to 8 bits")
    return 2 ** (bits - 1) - 1


def to_scale(largest: Float[Tensor, "*shape"], bits: int = 8) -> Float[Tensor, "*shape"]:
    """The step between codes at which `largest` is the largest code; 1 where it is zero (all codes are zero then)."""
    step = largest / largest_code(bits)
    return torch.where(step > 0, step, torch.ones_like(step))


def to_codes(x: Float[Tensor, "*shape"], scale: Float[Tensor, "..."], bits: int = 8) -> Int8[Tensor, "*shape"]:
    """round(x / scale), cut to the range of the codes; `scale` broadcasts.

    Raises:
        ValueError: NaN or infinity in x.

    >>> to_codes(torch.tensor([0.1, -0.26, 9.0]), torch.tensor(0.1)).tolist()
    [1, -3, 90]
    """
    if not bool(torch.isfinite(x).all()):
        raise ValueError("NaN or infinity cannot be quantized")
    limit = largest_code(bits)
    return (x / scale).round_().clamp_(-limit, limit).to(torch.int8)


def quantize_matrix(
    weight: Float[Tensor, "rows inner"], bits: int = 8, group: int | None = None
) -> tuple[Int8[Tensor, "rows inner"], Float[Tensor, "scale_rows groups"]]:
    """Round to nearest, by largest magnitudes.

    Args:
        group: inputs that share a scale within a row (the last group may be smaller); None: one scale for all.

    Returns:
        codes, and scales of (1, 1) or (rows, ⌈inner / group⌉).

    Raises:
        ValueError: NaN or infinity, a group below 1, bits outside 2 … 8.
    """
    work = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not bool(torch.isfinite(work).all()):
        raise ValueError("the weight holds NaN or infinity")
    if group is None:
        scales = to_scale(work.abs().amax(), bits).reshape(1, 1)
        return to_codes(work, scales, bits), scales
    if group < 1:
        raise ValueError(f"group={group}: at least one input shares a scale")
    largest = torch.stack([part.abs().amax(1) for part in work.split(group, 1)], 1)
    scales = to_scale(largest, bits)
    return to_codes(work, spread_scales(scales, work.shape[1], group), bits), scales


def spread_scales(
    scales: Float[Tensor, "scale_rows groups"], inner: int, group: int | None
) -> Float[Tensor, "scale_rows wide"]:
    """A scale for every input, (rows, inner), of one for every group; a lone scale stays (1, 1)."""
    return scales if group is None else scales.repeat_interleave(group, 1)[:, :inner]


def pack_codes(codes: Int8[Tensor, "*shape"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Codes in `bits` bits each.

    >>> unpack_codes(pack_codes(torch.tensor([-7, 7, 0], dtype=torch.int8), 4), 4, (3,)).tolist()
    [-7, 7, 0]
    """
    return pack_bits((codes.flatten().short() + largest_code(bits)).to(torch.uint8), bits)


def unpack_codes(packed: UInt8[Tensor, " bytes"], bits: int, shape: tuple[int, ...]) -> Int8[Tensor, "*shape"]:
    """The codes that `pack_codes` packed."""
    codes = unpack_bits(packed, bits, torch.Size(shape).numel())
    return (codes.short() - largest_code(bits)).to(torch.int8).reshape(shape)
