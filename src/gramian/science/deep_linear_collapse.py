"""The exact minimum of deep linear layers over free features: which classes live, and how long their vectors are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["DeepLinear", "deep_linear_solution"]


class DeepLinear(NamedTuple):
    r"""The global minimum, up to rotations between the layers.

    Attributes:
        value: of the objective.
        strengths: \(s_k\): what the output is for the right class (1 would be the target); zero for a class that
            vanishes.
        layers: singular values of every layer, (layers, classes): each layer is diagonal in the same frame.
        lengths: of the features of each class, \(\|h_{k,i}\|\).
    """

    value: float
    strengths: Float[Tensor, " classes"]
    layers: Float[Tensor, "layers classes"]
    lengths: Float[Tensor, " classes"]


def deep_linear_solution(counts: Sequence[int], weight_decay: Sequence[float], feature_decay: float) -> DeepLinear:
    r"""Minimum of \(\frac1{2N}\|W_M\cdots W_1 H - Y\|_F^2 + \sum_i\frac{\lambda_i}2\|W_i\|_F^2 +
    \frac{\lambda_H}2\|H\|_F^2\) without bias, for any numbers of samples \(n_k\).

    The classes decouple: the features of one class coincide, those of two classes are orthogonal, the output is
    \(\mathrm{diag}(s)\,Y\), and \(s_k\) minimizes

    \[ \frac{n_k}{2N}(s - 1)^2 + \frac{M+1}2\bigl(\lambda_H n_k \prod_i \lambda_i\bigr)^{1/(M+1)} s^{2/(M+1)}. \]

    One layer has the closed form \(s_k = \max\bigl(0, 1 - N\sqrt{\lambda_W\lambda_H/n_k}\bigr)\): a class of
    \(n_k \le N^2\lambda_W\lambda_H\) samples vanishes. With more layers a class vanishes when zero is the lower of
    the two local minima.

    Args:
        counts: n_k.
        weight_decay: λ of each layer, first to last.
        feature_decay: λ_H.

    Raises:
        ValueError: an empty class, or a decay that is not positive.

    Source: Dang et al. (2023), theorems 3.1 and 4.1; the decoupling for M layers follows from the balance of the
    layers and the inequality of the arithmetic and geometric means.

    >>> deep_linear_solution((40, 10), (1e-3,), 1e-3).strengths
    tensor([0.9921, 0.9842], dtype=torch.float64)
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"counts={tuple(counts)}: every class needs at least one sample")
    if not weight_decay or min(weight_decay) <= 0 or feature_decay <= 0:
        raise ValueError(
            f"weight_decay={tuple(weight_decay)}, feature_decay={feature_decay}: every decay must be positive"
        )
    total, parts = sum(counts), len(weight_decay) + 1
    strengths, values, layers, lengths = [], [], [], []
    for count in counts:
        product = feature_decay * count * math.prod(weight_decay)
        price = product ** (1 / parts)
        strength = _strength(count / total, price, parts)
        strengths.append(strength)
        values.append(count / (2 * total) * (strength - 1) ** 2 + parts / 2 * price * strength ** (2 / parts))
        # balance: λ_i σ_i² is the same number for every layer and for the features, and their product is s² ∏ λ n λ_H
        level = price * strength ** (2 / parts)
        layers.append([math.sqrt(level / decay) for decay in weight_decay])
        lengths.append(math.sqrt(level / (feature_decay * count)))
    kind = {"dtype": torch.float64}
    return DeepLinear(
        math.fsum(values),
        torch.tensor(strengths, **kind),
        torch.tensor(layers, **kind).T,
        torch.tensor(lengths, **kind),
    )


def _strength(share: float, price: float, parts: int) -> float:
    """The s in [0, 1] that minimizes share/2 (s − 1)² + parts/2 · price · s^(2/parts)."""
    if parts == 2:
        return max(0.0, 1 - price / share)

    def slope(s: float) -> float:
        return share * (s - 1) + price * s ** (2 / parts - 1)

    # the slope is +∞ at 0, convex in s, and least where its own derivative vanishes: a root beyond is the minimum
    exponent = 1 - 2 / parts
    lowest = (price * exponent / share) ** (1 / (exponent + 1))
    if lowest >= 1 or slope(lowest) >= 0:
        return 0.0
    low, high = lowest, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    root = (low + high) / 2
    inside = share / 2 * (root - 1) ** 2 + parts / 2 * price * root ** (2 / parts)
    return root if inside < share / 2 else 0.0
