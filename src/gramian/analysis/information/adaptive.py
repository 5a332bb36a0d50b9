"""Mutual information of a layer's activations with input and label, by estimators that adapt to the layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Information", "ebab_codes", "mi_ebab", "mi_kde"]


@dataclass(frozen=True)
class Information:
    """Two estimates, in bits.

    Attributes:
        input: I(T; X).
        label: I(T; Y).
    """

    input: float
    label: float


def _checked(activations: Tensor, labels: Tensor) -> Tensor:
    if len(activations) < 2:
        raise ValueError(f"{len(activations)} sample(s): information needs two at least")
    if len(labels) != len(activations):
        raise ValueError(f"{len(labels)} labels of {len(activations)} samples")
    x = activations.detach().double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the activations hold NaN or infinite numbers")
    return x


def ebab_codes(
    activations: Float[Tensor, "samples units"], bins: int = 30, lowest: float | int | None = None
) -> Int[Tensor, " samples"]:
    """Which samples a layer tells apart once its activations are binned: a number for each distinct row of bins.

    The edges are order statistics of the distinct values that occur in the whole layer, so that each bin holds as
    many distinct values (entropy-based adaptive binning). Whatever increasing function is applied to all
    activations, the codes stay.

    Args:
        bins: how many.
        lowest: the activation's own lowest value (0 for ReLU, −1 for tanh): it gets a bin by itself, and only values
            above it are spread over the others. Without it, all values are spread.

    Raises:
        ValueError: fewer than two bins or samples, or NaN.

    Source: Chelombiev et al., Adaptive Estimators Show Information Compression in Deep Neural Networks (2019),
    section 3.
    """
    if bins < 2:
        raise ValueError(f"bins={bins}: two at least, or nothing is told apart")
    x = _checked(activations, activations)
    values = x.unique()  # sorted
    offset = 0
    if lowest is not None:
        values, offset = values[values > lowest], 1
    inner = bins - offset
    if len(values):
        places = torch.arange(offset == 0, inner) * len(values) // inner
        edges = values[places]
    else:
        edges = values
    cells = torch.bucketize(x, edges.unique(), right=True)
    return torch.unique(cells, dim=0, return_inverse=True)[1]


def _entropy(codes: Tensor) -> float:
    p = torch.bincount(codes).double()
    p = p[p > 0] / len(codes)
    return max(0.0, -float((p * p.log2()).sum()))


def mi_ebab(
    activations: Float[Tensor, "samples units"],
    labels: Int[Tensor, " _"],
    bins: int = 30,
    lowest: float | int | None = None,
) -> Information:
    r"""By entropy-based adaptive binning: \(I(T;X) = H(c)\), \(I(T;Y) = H(c) - \sum_y p(y) H(c\,|\,y)\), in bits.

    c is the code of `ebab_codes`; the network is deterministic and the inputs are distinct, so the code's entropy is
    what it knows of the input. It is at most \(\log_2 n\).

    Raises:
        ValueError: fewer than two samples or bins, labels of another number, or NaN.

    Source: Chelombiev et al. (2019), section 3.

    >>> found = mi_ebab(torch.tensor([[0.1], [0.2], [0.8], [0.9]]), torch.tensor([0, 0, 1, 1]), bins=2)
    >>> found.input, found.label
    (1.0, 1.0)
    """
    _checked(activations, labels)
    codes = ebab_codes(activations, bins, lowest)
    total = _entropy(codes)
    within = sum(float((labels == y).double().mean()) * _entropy(codes[labels == y]) for y in labels.unique())
    return Information(total, max(0.0, total - within))


def mi_kde(
    activations: Float[Tensor, "samples units"],
    labels: Int[Tensor, " _"],
    noise: float | int | Literal["adaptive"] = "adaptive",
    bound: Literal["upper", "lower"] = "upper",
) -> Information:
    r"""By pairwise distances, after Gaussian noise of variance \(\sigma^2\) on every activation, in bits.

    \[ I(T;X) \lessgtr -\frac1n \sum_i \log_2 \frac1n \sum_j \exp\bigl(-\|t_i - t_j\|^2 / (2 s)\bigr), \]

    with \(s = \sigma^2\) an upper bound (from the Kullback–Leibler divergences of the components) and with
    \(s = 4\sigma^2\) a lower one (Bhattacharyya). \(I(T;Y)\) takes off the mean of the same within each label.

    Args:
        noise: σ²; ``"adaptive"`` takes 0.001 times the square of the layer's largest magnitude.

    Raises:
        ValueError: fewer than two samples, labels of another number, NaN, an unknown bound, or σ² not positive (an
            adaptive one of a layer that is all zeros is 0: such a layer carries nothing).

    Source: Kolchinsky & Tracey, Estimating Mixture Entropy with Pairwise Distances (2017); Chelombiev et al. (2019).
    """
    x = _checked(activations, labels)
    if bound not in ("upper", "lower"):
        raise ValueError(f"bound={bound!r} is neither 'upper' nor 'lower'")
    variance = 1e-3 * float(x.abs().max()) ** 2 if noise == "adaptive" else float(noise)
    if not variance > 0:
        raise ValueError(f"the noise has variance {variance}: it must be positive")
    spread = variance if bound == "upper" else 4 * variance
    # exact differences: squares expanded cancel where points lie close together
    kernel = -torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * spread)

    def bits(rows: Tensor) -> float:
        own = kernel[rows][:, rows]
        return max(0.0, float(-(own.logsumexp(1) - math.log(len(own))).mean()) / math.log(2))

    total = bits(torch.arange(len(x)))
    within = 0.0
    for y in labels.unique():
        rows = torch.nonzero(labels == y).flatten()
        within += len(rows) / len(x) * bits(rows)
    return Information(total, max(0.0, total - within))
