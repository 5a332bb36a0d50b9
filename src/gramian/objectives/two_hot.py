"""Regression as classification: a number as two neighbouring bins on a logarithmic scale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["from_two_hot", "symexp", "symlog", "symlog_bins", "two_hot", "two_hot_loss"]


def symlog(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""\(\mathrm{sign}(x)\ln(1 + |x|)\): a logarithm for numbers of either sign.

    >>> symlog(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.6931,  0.0000,  0.6931])
    """
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""\(\mathrm{sign}(x)(e^{|x|} - 1)\), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


def symlog_bins(count: int = 255, limit: float | int = 20.0) -> Float[Tensor, " bins"]:
    """Evenly spaced places from -limit to limit, in units of `symlog`.

    Raises:
        ValueError: fewer than 2 bins, or a limit that is not positive.
    """
    if count < 2 or not limit > 0:
        raise ValueError(f"count={count}, limit={limit}: at least 2 bins between limits above 0")
    return torch.linspace(-limit, limit, count)


def two_hot(values: Float[Tensor, "*shape"], bins: Float[Tensor, " bins"]) -> Float[Tensor, "*shape bins"]:
    r"""Weights of two neighbouring bins whose mean place is the number: \(\sum_i w_i b_i = v\).

    Args:
        values: numbers in the units of the bins.
        bins: ascending places.

    Raises:
        ValueError: a number outside the bins, or NaN.

    >>> two_hot(torch.tensor([0.25]), torch.tensor([-1.0, 0.0, 1.0]))
    tensor([[0.0000, 0.7500, 0.2500]])
    """
    if values.numel() and not bool(((values >= bins[0]) & (values <= bins[-1])).all()):
        raise ValueError(
            f"numbers from {float(values.min()):g} to {float(values.max()):g} do not lie within the bins "
            f"{float(bins[0]):g} … {float(bins[-1]):g}; rescale them, or take wider bins"
        )
    bins = bins.to(values)
    index = (torch.searchsorted(bins, values.contiguous(), right=True) - 1).clamp(0, len(bins) - 2)
    share = (values - bins[index]) / (bins[index + 1] - bins[index])
    weights = values.new_zeros(*values.shape, len(bins))
    weights.scatter_(-1, index[..., None], (1 - share)[..., None])
    return weights.scatter_(-1, index[..., None] + 1, share[..., None])


def two_hot_loss(
    logits: Float[Tensor, "*shape bins"], values: Float[Tensor, "*shape"], bins: Float[Tensor, " bins"]
) -> Float[Tensor, "*shape"]:
    """Cross-entropy of the predicted bins with the two bins of each number's symlog, one value a number.

    Raises:
        ValueError: a number whose symlog lies outside the bins.

    Source: Hafner et al., "Mastering Diverse Domains through World Models" (2023).
    """
    return -(two_hot(symlog(values), bins) * logits.log_softmax(-1)).sum(-1)


def from_two_hot(logits: Float[Tensor, "*shape bins"], bins: Float[Tensor, " bins"]) -> Float[Tensor, "*shape"]:
    """The number that predicted bins stand for: symexp of their mean place.

    >>> bins = symlog_bins(255, 20.0)
    >>> from_two_hot(two_hot(symlog(torch.tensor([3.0])), bins).log(), bins)
    tensor([3.0000])
    """
    return symexp(logits.softmax(-1) @ bins.to(logits))
