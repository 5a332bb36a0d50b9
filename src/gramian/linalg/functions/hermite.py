r"""Hermite polynomials: what is orthogonal under a standard normal."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["gauss_hermite", "hermite", "hermite_coefficients", "quadratic_part"]


def hermite(degree: int, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""The normalized polynomial \(h_k\): degree k, \(\mathbb E[h_j(g) h_k(g)] = \delta_{jk}\) for standard normal g.

    \(h_{k+1}(x) = (x\,h_k(x) - \sqrt k\,h_{k-1}(x)) / \sqrt{k+1}\); times \(\sqrt{k!}\) it is the probabilists' form.

    Raises:
        ValueError: a negative degree.

    >>> hermite(2, torch.tensor([0.0, 1.0, 3.0]))
    tensor([-0.7071,  0.0000,  5.6569])
    """
    if degree < 0:
        raise ValueError(f"degree={degree} must not be negative")
    before, now = torch.zeros_like(x), torch.ones_like(x)
    for k in range(degree):
        before, now = now, (x * now - math.sqrt(k) * before) / math.sqrt(k + 1)
    return now


def gauss_hermite(points: int) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """Nodes and weights for means under a standard normal, exact for polynomials of degree below 2 · points.

    Raises:
        ValueError: points outside 1 … 150 (beyond, the weights underflow).
    """
    if not 1 <= points <= 150:
        raise ValueError(f"points={points} must lie in 1 … 150")
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def hermite_coefficients(
    function: Callable[[Tensor], Tensor], degree: int, points: int = 100
) -> Float[Tensor, " coefficients"]:
    r"""\(\mathbb E[f(g)\,h_k(g)]\) for k = 0 … degree, by quadrature.

    Raises:
        ValueError: a negative degree, or too few points for products with it.

    >>> hermite_coefficients(lambda x: x**2, 3).round(decimals=4)
    tensor([1.0000, 0.0000, 1.4142, 0.0000], dtype=torch.float64)
    """
    if degree < 0 or degree >= points:
        raise ValueError(f"degree={degree} must lie in 0 … points − 1 = {points - 1}")
    nodes, weights = gauss_hermite(points)
    values = weights * function(nodes)
    found = torch.stack([(values * hermite(k, nodes)).sum() for k in range(degree + 1)])
    return torch.where(found.abs() < 1e-13, torch.zeros_like(found), found)


def quadratic_part(x: Float[Tensor, "samples dim"], values: Float[Tensor, " samples"]) -> Float[Tensor, "dim dim"]:
    r"""The matrix \(M = \tfrac12\,\mathbb E[f(x)(xx^T - I)]\) of f's part \(x^TMx - \operatorname{tr} M\).

    Raises:
        ValueError: no sample.
    """
    if not len(x):
        raise ValueError("no sample was given")
    return ((x * values[:, None]).T @ x / len(x) - values.mean() * torch.eye(x.shape[1], dtype=x.dtype)) / 2
