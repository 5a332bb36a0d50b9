r"""Rows in int8 by their largest magnitude, and products of int8 matrices.

A row \(x\) becomes \(q = \mathrm{round}(127\, x / s)\), \(s = \max_j |x_j|\). Products of rows are exact in int32:
\(x \cdot w \approx s_x s_w / 127^2 \cdot (q_x \cdot q_w)\).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int8, Int32
from torch import Tensor

__all__ = ["dequantize_rows", "int8_matmul", "mixed_matmul", "outlier_features", "quantize_rows"]

LARGEST = 127
"""Codes are in [−127, 127]: symmetric, so that a negated row has negated codes."""

_EXACT = 2**24 // 128**2
"""How many products of codes a float32 sums without rounding."""


def quantize_rows(x: Float[Tensor, "rows inner"]) -> tuple[Int8[Tensor, "rows inner"], Float[Tensor, " rows"]]:
    r"""Codes \(\mathrm{round}(127\, x_{ij} / s_i)\) and scales \(s_i = \max_j |x_{ij}|\) (0 for a row of zeros).

    Raises:
        ValueError: NaN or infinity.

    >>> quantize_rows(torch.tensor([[1.0, -2.0, 0.5]]))
    (tensor([[  64, -127,   32]], dtype=torch.int8), tensor([2.]))
    """
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    scales = torch.linalg.vector_norm(work, ord=math.inf, dim=1)
    if not bool(torch.isfinite(scales).all()):
        raise ValueError("NaN or infinity cannot be quantized; the first is in row " + str(_first_bad(scales)))
    inverse = torch.where(scales > 0, LARGEST / scales.clamp(min=torch.finfo(work.dtype).tiny), 0.0)
    # a subnormal scale has an inverse beyond the float's range
    codes = torch.nan_to_num(work * inverse[:, None], nan=0.0).round_().clamp_(-LARGEST, LARGEST)
    return codes.to(torch.int8), scales


def _first_bad(scales: Tensor) -> int:
    return int(torch.nonzero(~torch.isfinite(scales)).flatten()[0])


def dequantize_rows(codes: Int8[Tensor, "rows inner"], scales: Float[Tensor, " rows"]) -> Float[Tensor, "rows inner"]:
    r"""\(s_i q_{ij} / 127\)."""
    return codes.to(scales.dtype) * (scales / LARGEST)[:, None]


def int8_matmul(
    a: Int8[Tensor, "rows inner"], b: Int8[Tensor, "outputs inner_too"], how: str = "auto"
) -> Int32[Tensor, "rows outputs"]:
    r"""\(a b^T\), exactly, in int32.

    Args:
        how: ``"integer"`` multiplies integers (`torch._int_mm`); ``"float"`` multiplies floats, in slices short enough
            that float32 sums them without rounding; ``"auto"`` takes integers on a GPU and on processors
            that have instructions for them (VNNI), floats elsewhere: there the integer loop is far slower.

    Raises:
        ValueError: inner sizes that differ, more than 131,071 (int32 could overflow), or an unknown `how`.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"inner sizes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[1] >= 2**17:
        raise ValueError(f"{a.shape[1]} products of int8 may overflow int32; at most {2**17 - 1} are summed")
    if how == "auto":
        how = "integer" if a.is_cuda or _has_integer_products() else "float"
    if how == "integer":
        return _integer_product(a, b)
    if how != "float":
        raise ValueError(f"how={how!r} is not 'auto', 'integer' or 'float'")
    total: Tensor | None = None
    for left, right in zip(a.split(_EXACT, dim=1), b.split(_EXACT, dim=1), strict=True):
        part = (left.float() @ right.float().mT).to(torch.int32)
        total = part if total is None else total.add_(part)
    return total if total is not None else a.new_zeros(len(a), len(b), dtype=torch.int32)


def _has_integer_products() -> bool:
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_vnni") or known.get("avx_vnni") or known.get("amx_int8"))


def _integer_product(a: Tensor, b: Tensor) -> Tensor:
    if not a.is_cuda:
        return torch._int_mm(a, b.mT)
    # the GPU's kernel takes more than 16 rows, and sizes that are multiples of 8
    rows, outputs, inner = len(a), len(b), a.shape[1]
    more = torch.nn.functional.pad
    a = more(a, (0, -inner % 8, 0, max(24, rows + -rows % 8) - rows))
    b = more(b, (0, -inner % 8, 0, -outputs % 8))
    return torch._int_mm(a, b.mT)[:rows, :outputs]


def outlier_features(x: Float[Tensor, "rows inner"], threshold: float | int = 6.0) -> Bool[Tensor, " inner"]:
    r"""The columns \(\{ j : \max_i |x_{ij}| \ge \text{threshold} \}\); all at 0, none at infinity.

    Raises:
        ValueError: a threshold below 0, or NaN.
    """
    if not threshold >= 0:
        raise ValueError(f"threshold={threshold}: a magnitude is at least 0 (infinity separates nothing)")
    if not len(x):
        return torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    return x.abs().amax(0) >= threshold


def mixed_matmul(
    x: Float[Tensor, "rows features"],
    codes: Int8[Tensor, "outputs inner"],
    scales: Float[Tensor, " outputs"],
    threshold: float | int = 6.0,
    weight: Float[Tensor, "outputs inner"] | None = None,
) -> Float[Tensor, "rows outputs"]:
    r"""\(X W^T\) in int8, but for the outlier columns of X, which are multiplied as floats.

    \[ X W^T \approx X_O W_O^T + \tfrac{1}{127^2}\, s_X s_W^T \odot (q_{X, \bar O}\, q_{W, \bar O}^T), \]

    O the `outlier_features`, the scales of X taken over the columns outside O.

    Args:
        codes, scales: the rows of W by `quantize_rows`.
        weight: W itself, for the outlier columns; by default they are dequantized.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity in X, or a threshold below 0.

    Source: Dettmers et al., LLM.int8() (2022), equations 7 and 8.
    """
    if x.shape[1] != codes.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features, the weight takes {codes.shape[1]}")
    outside = outlier_features(x, threshold)
    columns = torch.nonzero(outside).flatten()
    inner = x.masked_fill(outside, 0.0) if len(columns) else x
    # columns of zeros add nothing, and the codes of W need no copy
    row_codes, row_scales = quantize_rows(inner)
    if len(columns) < x.shape[1]:
        product = int8_matmul(row_codes, codes).to(row_scales.dtype)
        result = product * (row_scales / LARGEST)[:, None] * (scales.to(row_scales.dtype) / LARGEST)
    else:
        result = row_scales.new_zeros(len(x), len(codes))
    if len(columns):
        if weight is None:
            kept = dequantize_rows(codes[:, columns], scales.to(row_scales.dtype))
        else:
            kept = weight[:, columns].to(row_scales.dtype)
        part = x[:, columns].to(row_scales.dtype)
        if not bool(torch.isfinite(part).all()):
            raise ValueError("NaN or infinity in the activations")
        result = result.addmm_(part, kept.mT)
    return result.to(x.dtype)
