"""Sums of squared products, the diagonal of a Fisher matrix of a linear layer: compiled where that is faster.

A product for every sample, squared and added up, writes and reads a whole matrix a sample. The compiled form
keeps a tile of it in registers and writes only the sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.kernels import run_tasks
from gramian.linalg.simd import LANES
from gramian.linalg.squared_products_kernels import ROWS, add_squared_products

_LOOP_FROM = 2**15
"""Elements from which one product at a time, in a buffer that stays in cache, is faster than all at once."""
_COMPILED_UP_TO = 48
"""Positions up to which the compiled form wins: with more of them squaring is little beside the product."""
_COMPILED_FROM = 4096
"""Elements under which packing and threads cost more than they save."""


def add_squared_products_(
    total: Float[Tensor, "rows columns"],
    left: Float[Tensor, "samples positions rows"],
    right: Float[Tensor, "samples positions columns"],
    chunk: int = 32,
) -> Float[Tensor, "rows columns"]:
    r"""Add \(\sum_n (L_n^\top R_n)^{\odot 2}\) to `total`, in place.

    Args:
        left, right: \(L_n\), \(R_n\): one matrix a sample.
        chunk: how many products may be in memory at once where they are made at once.

    Returns:
        `total`.

    Raises:
        ValueError: sizes that do not fit.

    >>> add_squared_products_(torch.zeros(1, 2), torch.ones(3, 2, 1), torch.tensor([[[1.0, 2.0]] * 2] * 3))
    tensor([[12., 48.]])
    """
    samples, positions, rows = left.shape
    columns = right.shape[2]
    if right.shape[:2] != left.shape[:2] or total.shape != (rows, columns):
        raise ValueError(f"left {tuple(left.shape)}, right {tuple(right.shape)}, total {tuple(total.shape)} do not fit")
    if positions == 1:
        return total.addmm_(left[:, 0].square().mT, right[:, 0].square())
    on_cpu = total.device.type == "cpu"
    one_kind = total.dtype == left.dtype == right.dtype and total.dtype in (torch.float32, torch.float64)
    few = 0 < positions <= _COMPILED_UP_TO
    if on_cpu and one_kind and few and samples and total.numel() >= _COMPILED_FROM:
        a, b = _panels(left, ROWS), _panels(right, LANES)
        padded = total.new_zeros(len(a) * ROWS, len(b) * LANES)
        flat = (t.view(-1).numpy() for t in (padded, a, b))
        run_tasks(add_squared_products, len(b), *flat, samples, positions)
        return total.add_(padded[:rows, :columns])
    if on_cpu and total.numel() >= _LOOP_FROM:
        buffer = torch.empty_like(total)
        for one, other in zip(left, right, strict=True):
            torch.mm(one.mT, other, out=buffer)
            total.addcmul_(buffer, buffer)
        return total
    for start in range(0, samples, chunk):
        total += (left[start : start + chunk].mT @ right[start : start + chunk]).square_().sum(0)
    return total


def _panels(x: Tensor, width: int) -> Tensor:
    """The last axis cut into panels of `width`, the last one padded: (panels, samples · positions, width)."""
    samples, positions, features = x.shape
    x = F.pad(x.detach(), (0, -features % width))
    return x.reshape(samples * positions, -1, width).transpose(0, 1).contiguous()
