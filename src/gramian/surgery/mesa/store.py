r"""Activations in a few bits, group by group: the ranges are running estimates, the codes are packed into bytes.

With a group's minimum s and range r, \(q = \mathrm{round}((x - s)(2^b - 1) / r)\), clipped to \(0, …, 2^b - 1\); the
value restored is \(s + q r / (2^b - 1)\). Rounding is stochastic, \(\mathrm{floor}(v + u)\) with u uniform in [0, 1),
so that what is restored is right on average wherever nothing is clipped.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

__all__ = ["BITS", "Codes", "Quantizer", "pack", "restore", "unpack"]

BITS = (1, 2, 4, 8, 16)


def pack(codes: Integer[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Codes of 1, 2, 4, 8 or 16 bits in as few bytes as hold them, the first in the lowest bits.

    >>> pack(torch.tensor([1, 0, 3, 2, 1]), 2).tolist()
    [177, 1]
    """
    if bits == 16:
        return torch.stack([codes & 255, codes >> 8], 1).to(torch.uint8).flatten()
    each = 8 // bits
    part = nn.functional.pad(codes, (0, -len(codes) % each)).to(torch.uint8).view(-1, each)
    whole = part[:, 0].clone()
    for i in range(1, each):
        whole |= part[:, i] << (bits * i)
    return whole


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> Integer[Tensor, " count"]:
    """The codes again; `count` leaves out what filled the last byte."""
    if bits == 16:
        two = packed.view(-1, 2).to(torch.int32)
        return two[:, 0] | (two[:, 1] << 8)
    if bits == 8:
        return packed
    parts = [(packed >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)]
    return torch.stack(parts, 1).flatten()[:count]


class Codes(NamedTuple):
    """What is kept of a tensor: its packed codes, and each group's minimum and step."""

    packed: Tensor
    low: Tensor
    step: Tensor


def _axis(x: Tensor) -> int:
    # images (batch, channels, height, width) and attention (batch, heads, …) are grouped by their second axis
    return 1 if x.ndim == 4 else x.ndim - 1


def _grouped(x: Tensor, groups: int) -> Tensor:
    return x.movedim(_axis(x), 0).reshape(groups, -1)


class Quantizer(nn.Module):
    """Stores tensors in few bits, with ranges that it learns as running estimates.

    Args:
        bits: of a code: 1, 2, 4, 8 or 16.
        groups: how many equal groups the channels (or heads) fall into, each with a range of its own; 0 makes
            each channel (or head) a group.
        decay: of the running estimates; 0 takes each tensor's own range.
        stochastic: whether to round stochastically.
        generator: source of the rounding; by default torch's own.

    Raises:
        ValueError: other bits, groups that do not divide the channels, NaN or infinity.
    """

    def __init__(
        self, bits: int = 8, groups: int = 1, *, decay: float | int = 0.9, stochastic: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if bits not in BITS:
            raise ValueError(f"bits={bits} is not one of {', '.join(map(str, BITS))}")
        if groups < 0 or not 0 <= decay < 1:
            raise ValueError(f"groups={groups}, decay={decay}: groups are 0 or more, a decay is in [0, 1)")
        self.bits, self.groups, self.decay = bits, groups, decay
        self.stochastic, self.generator = stochastic, generator
        self.register_buffer("low", None, persistent=False)
        self.register_buffer("range", None, persistent=False)

    def count(self, x: Tensor) -> int:
        """How many groups a tensor has."""
        channels = x.shape[_axis(x)]
        groups = self.groups or channels
        if channels % groups:
            raise ValueError(f"groups={groups} do not divide the {channels} channels of a tensor {tuple(x.shape)}")
        return groups

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "*shape"]) -> Codes:
        """Codes of a tensor; the running estimates move towards its range first."""
        rows = _grouped(x, self.count(x))
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
        low, high = torch.aminmax(rows, dim=1)
        width = high - low
        if not bool(torch.isfinite(width).all()):
            raise ValueError("NaN or infinity in an activation, which cannot be kept in few bits")
        if self.low is None or self.low.shape != low.shape or not self.decay:
            self.low, self.range = low, width
        else:
            self.low = torch.lerp(low, self.low, self.decay)
            self.range = torch.lerp(width, self.range, self.decay)
        low, step = self.low, self.range / (2**self.bits - 1)
        scaled = (rows - low[:, None]) / torch.where(step > 0, step, 1)[:, None]
        if self.stochastic:
            noise = torch.rand(scaled.shape, dtype=scaled.dtype, device=x.device, generator=self.generator)
            scaled = scaled.add_(noise).floor_()
        else:
            scaled = scaled.round_()
        codes = scaled.clamp_(0, 2**self.bits - 1)
        packed = codes.flatten().to(torch.uint8 if self.bits <= 8 else torch.int32)
        return Codes(packed if self.bits == 8 else pack(packed, self.bits), low, step)


def restore(codes: Codes, bits: int, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """The tensor that codes stand for, in its shape.

    >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    >>> restore(Quantizer(2, stochastic=False)(x), 2, (1, 4), torch.float32)
    tensor([[0., 1., 2., 3.]])
    """
    count = torch.Size(shape).numel()
    values = unpack(codes.packed, bits, count).view(len(codes.low), -1).to(codes.low.dtype)
    values = values * codes.step[:, None] + codes.low[:, None]
    axis = 1 if len(shape) == 4 else len(shape) - 1
    moved = [shape[axis], *(n for i, n in enumerate(shape) if i != axis)]
    return values.view(moved).movedim(0, axis).to(dtype)
