r"""GPTQ: round a weight column by column, and let the columns that are left make up for each error.

The error that counts is the layer's, \(\| (W - \hat W) X^T \|^2\). Given the Gram matrix \(X^T X\) of the layer's
inputs, the best correction of the other columns after one was rounded is known in closed form.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from gramian.linalg.factor.quant import symmetric

__all__ = ["gptq"]


def gptq(
    weight: Float[Tensor, "rows inner"],
    gram: Float[Tensor, "inner_too inner_again"],
    bits: int = 4,
    group: int = 128,
    damping: float | int = 0.01,
) -> tuple[Int8[Tensor, "rows inner"], Float[Tensor, "rows groups"]]:
    r"""Codes and scales of a weight, rounded for inputs with the Gram matrix `gram`.

    With U the upper Cholesky factor of \((G + \lambda I)^{-1}\), column j is rounded to \(\hat w_j\) and every later
    column k moves by \(-(w_j - \hat w_j)\,U_{jk} / U_{jj}\).

    Args:
        gram: \(X^T X\), up to a factor.
        group: inputs that share a scale in a row; it is set when the group's first column is reached.
        damping: λ, as a share of the mean of the diagonal.

    Raises:
        ValueError: sizes that do not fit, NaN or infinity, a Gram matrix that is zero or not positive semidefinite,
            damping not above 0.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
    algorithm 1, without its lazy batches.
    """
    rows, inner = weight.shape
    if gram.shape != (inner, inner):
        raise ValueError(f"a Gram matrix of {tuple(gram.shape)} for a weight of {inner} inputs")
    if group < 1 or not damping > 0:
        raise ValueError(f"group={group} must be at least 1 and damping={damping} above 0")
    if not bool(torch.isfinite(weight).all()) or not bool(torch.isfinite(gram).all()):
        raise ValueError("NaN or infinity in the weight or the Gram matrix")
    limit = symmetric.largest_code(bits)
    work, moments = weight.detach().double().clone(), gram.double().clone()
    mean = moments.diagonal().mean()
    if not bool(mean > 0):
        raise ValueError("the Gram matrix is zero: no inputs were seen")
    moments.diagonal().add_(damping * mean)
    factor, failed = torch.linalg.cholesky_ex(moments)
    if int(failed):
        raise ValueError("the Gram matrix is not positive semidefinite; give a larger damping")
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    codes = torch.empty_like(work)
    scales = work.new_empty(rows, -(-inner // group))
    for column in range(inner):
        if column % group == 0:
            largest = work[:, column : column + group].abs().amax(1)
            scales[:, column // group] = symmetric.to_scale(largest, bits)
        step = scales[:, column // group]
        codes[:, column] = (work[:, column] / step).round_().clamp_(-limit, limit)
        error = (work[:, column] - step * codes[:, column]) / upper[column, column]
        work[:, column + 1 :].addr_(error, upper[column, column + 1 :], alpha=-1)
    kept = torch.promote_types(weight.dtype, torch.float32)
    return codes.to(torch.int8), scales.to(kept)
