"""How alike two representations of the same samples are, whatever coordinates each is written in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["linear_cka"]


def linear_cka(x: Float[Tensor, "samples features"], y: Float[Tensor, "_ others"]) -> Float[Tensor, ""]:
    r"""Linear centred kernel alignment, between 0 and 1.

    \[ \mathrm{CKA}(X, Y) = \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F\, \|Y^\top Y\|_F}, \]

    both with their columns centred. It does not change when either is rotated, shifted or multiplied by a number.
    The products are taken over features or over samples, whichever are fewer.

    Args:
        x, y: features of the same samples, in the same order.

    Raises:
        ValueError: different numbers of samples, fewer than two, features that are the same for every sample, or NaN.

    Source: Kornblith, Norouzi, Lee & Hinton (2019), equation (2) with linear kernels.

    >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    >>> round(float(linear_cka(x, 5 * x.flip(1))), 6)
    1.0
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} samples: both need features of the same samples, in the same order")
    if len(x) < 2:
        raise ValueError("one sample has no similarity to compare: give at least two")
    kind = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = (v.to(kind) - v.to(kind).mean(0) for v in (x, y))
    if not bool(torch.isfinite(x.sum() + y.sum())):
        raise ValueError("the features hold NaN or infinite numbers")
    scales = [torch.linalg.matrix_norm(v) for v in (x, y)]
    if not all(bool(s > 0) for s in scales):
        raise ValueError("features that are the same for every sample have no similarity: their variance is zero")
    x, y = x / scales[0], y / scales[1]
    if len(x) < max(x.shape[1], y.shape[1]):
        a, b = x @ x.mT, y @ y.mT
        return (a * b).sum() / (torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b))
    cross = (y.mT @ x).square().sum()
    return cross / (torch.linalg.matrix_norm(x.mT @ x) * torch.linalg.matrix_norm(y.mT @ y))
