r"""Expectations of products of ReLUs and their derivatives under Gaussian weights (arc-cosine kernels)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["attention_kernel", "relu_product", "step_product", "with_constant"]


def with_constant(x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch extended"]:
    """A 1 appended to every vector, with which kernels of ReLUs without biases see more than directions."""
    return torch.cat((x, torch.ones_like(x[..., :1])), -1)


def step_product(cosine: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""\(\mathbb E[1_{g > 0} 1_{h > 0}] = (\pi - \theta)/2\pi\) of standard normals with that correlation.

    Cosines that rounding has brought beyond ±1 are read as ±1.

    Source: Cho and Saul, "Kernel Methods for Deep Learning" (2009), order 0.

    >>> step_product(torch.tensor([1.0, 0.0, -1.0]))
    tensor([0.5000, 0.2500, 0.0000])
    """
    return (math.pi - torch.arccos(_inside(cosine))) / (2 * math.pi)


def relu_product(cosine: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""\(\mathbb E[\mathrm{relu}(g)\,\mathrm{relu}(h)] = (\sin\theta + (\pi - \theta)\cos\theta)/2\pi\).

    Source: Cho and Saul (2009), order 1.

    >>> relu_product(torch.tensor([1.0, 0.0]))
    tensor([0.5000, 0.1592])
    """
    cosine = _inside(cosine)
    angle = torch.arccos(cosine)
    return (torch.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi)


def _inside(cosine: Tensor) -> Tensor:
    if bool((cosine.abs() > 1 + 1e-3).any()):
        raise ValueError(f"a cosine of {float(cosine.abs().max()):.4g} is beyond 1: normalize first")
    return cosine.clamp(-1, 1)


def attention_kernel(
    x: Float[Tensor, "left tokens features"], y: Float[Tensor, "right others features"]
) -> Float[Tensor, "left right"]:
    r"""The kernel of ReLU attention with infinitely many random heads.

    The first token of a sample is the query \(x_0\), the others are keys:
    \[ K(x, y) = \frac{1}{NM} \sum_{ij} \langle x_i, y_j\rangle\,
       \mathbb E_W \big[\mathrm{relu}(x_0^T W x_i)\,\mathrm{relu}(y_0^T W y_j)\big], \]
    W with independent standard normal entries, which sees only \(\langle x_0, y_0\rangle\langle x_i, y_j\rangle\) and
    the lengths. Keys may come in any order, and their numbers may differ.

    Raises:
        ValueError: samples without a key.

    Source: Fu, Guo, Bai and Mei, "What can a Single Attention Layer Learn?" (2023), section 3.
    """
    if x.shape[1] < 2 or y.shape[1] < 2:
        raise ValueError(f"{x.shape[1] - 1} and {y.shape[1] - 1} keys: at least one after the query is needed")
    total = x.new_zeros(len(x), len(y))
    query = x[:, 0] @ y[:, 0].mT
    lengths = [t[:, :1].norm(dim=2) * t[:, 1:].norm(dim=2) for t in (x, y)]
    for i in range(1, x.shape[1]):  # one key at a time: all pairs of tokens of all samples do not fit
        inner = torch.einsum("af,bjf->abj", x[:, i], y[:, 1:])
        size = lengths[0][:, i - 1, None, None] * lengths[1][None]
        cosine = query[..., None] * inner / size.clamp(min=torch.finfo(x.dtype).tiny)
        total = total + (inner * size * relu_product(cosine)).sum(2)
    return total / ((x.shape[1] - 1) * (y.shape[1] - 1))
