r"""Neural tangent and Gaussian process kernels of infinitely wide networks on the sphere, at any depth.

For an activation σ with \(\mathbb E[\sigma(g)^2] = 1\) and normalized Hermite coefficients \(a_k\), the dual
\(\varphi(s) = \sum_k a_k^2 s^k\) is the correlation of what a layer puts out for inputs of correlation s. Depth
composes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.random import arc_cosine

__all__ = [
    "Dual", "HermiteDual", "ReluDual", "Taxonomy", "hermite_dual", "log_kernel", "optimal_activation", "taxonomy",
]  # fmt: skip


@runtime_checkable
class Dual(Protocol):
    """What a recursion over layers needs of an activation, in the logarithm t of the correlation."""

    def log_value(self, t: Tensor) -> Tensor:
        """Log φ(eᵗ)."""
        ...

    def growth(self, t: Tensor) -> Tensor:
        """S φ'(s) / φ(s)."""
        ...


class HermiteDual:
    r"""The dual with squared coefficients \(a_0^2, a_1^2, \dots\).

    Raises:
        ValueError: coefficients that are negative or do not add up to 1.
    """

    def __init__(self, squares: tuple[float, ...]) -> None:
        if min(squares) < 0 or abs(sum(squares) - 1) > 1e-6:
            raise ValueError(f"squares={squares} must not be negative and add up to 1: scale the activation")
        self.squares = squares
        self.lowest = next(k for k, a in enumerate(squares) if a > 0)

    def _sums(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s, value, slope = t.exp(), torch.zeros_like(t), torch.zeros_like(t)
        for k in range(len(self.squares) - 1, self.lowest - 1, -1):  # Horner, without the lowest power
            value = value * s + self.squares[k]
            slope = slope * s + k * self.squares[k]
        return value, slope

    def log_value(self, t: Tensor) -> Tensor:
        return self.lowest * t + self._sums(t)[0].log()

    def growth(self, t: Tensor) -> Tensor:
        value, slope = self._sums(t)
        return slope / value


class ReluDual:
    """The dual of √2 · relu, closed."""

    def log_value(self, t: Tensor) -> Tensor:
        return (2 * arc_cosine.relu_product(t.exp())).log()

    def growth(self, t: Tensor) -> Tensor:
        return 2 * arc_cosine.step_product(t.exp()) * (t - self.log_value(t)).exp()


def _coefficients(activation: Callable[[Tensor], Tensor], degree: int) -> tuple[np.ndarray, float]:
    """Normalized Hermite coefficients up to a degree, and E[σ(g)²]."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    weights = weights / weights.sum()
    values = activation(torch.from_numpy(nodes)).numpy()
    basis = np.zeros((degree + 1, len(nodes)))
    basis[0], basis[1] = 1, nodes
    for k in range(1, degree):
        basis[k + 1] = (nodes * basis[k] - math.sqrt(k) * basis[k - 1]) / math.sqrt(k + 1)
    return basis @ (weights * values), float(weights @ values**2)


def hermite_dual(activation: Callable[[Tensor], Tensor], degree: int = 40) -> HermiteDual:
    """The dual of an activation that its Hermite coefficients up to a degree describe: polynomials, smooth functions.

    Raises:
        ValueError: E[σ(g)²] other than 1, or more than 0.001 of it beyond the degree (ReLU: use `ReluDual`).

    >>> hermite_dual(lambda x: (x**2 - 1) / 2**0.5, 3).squares
    (0.0, 0.0, 1.0, 0.0)
    """
    found, size = _coefficients(activation, degree)
    squares = np.where(found**2 < 1e-14, 0.0, found**2)
    if abs(size - 1) > 1e-3:
        raise ValueError(f"E[σ(g)²] = {size:.4g} must be 1: divide the activation by {math.sqrt(size):.4g}")
    if size - squares.sum() > 1e-3:
        raise ValueError(f"{size - squares.sum():.2g} of E[σ(g)²] lies beyond degree={degree}: give more")
    return HermiteDual(tuple(float(v) for v in np.round(squares / squares.sum(), 14)))


def log_kernel(similarity: Float[Tensor, "..."], dual: Dual, depth: int, kind: str = "nngp") -> Float[Tensor, "..."]:
    r"""Log K after `depth` layers, from correlations of inputs; logarithms, because K itself underflows.

    Gaussian process (``nngp``): \(s \leftarrow \varphi(s)\). Neural tangent (``ntk``):
    \(K \leftarrow \varphi(s) + K\,\varphi'(s)\), then \(s \leftarrow \varphi(s)\); both start from s.

    Raises:
        ValueError: correlations outside (0, 1] (inputs on the sphere's part without negative numbers have them
            inside), a depth below 0, or an unknown kind.
    """
    if kind not in ("nngp", "ntk"):
        raise ValueError(f"kind={kind!r} is unknown; choose nngp or ntk")
    if depth < 0:
        raise ValueError(f"depth={depth} must not be negative")
    if not bool(((similarity > 0) & (similarity <= 1 + 1e-9)).all()):
        raise ValueError("correlations must lie in (0, 1]: put inputs on the sphere, with no negative numbers")
    t = similarity.clamp(max=1).log()
    ratio = torch.ones_like(t)  # K over s
    for _ in range(depth):
        if kind == "ntk":
            ratio = 1 + ratio * dual.growth(t)
        t = dual.log_value(t)
    return t + ratio.log()


class Taxonomy(NamedTuple):
    """What an infinitely wide and deep network does with an activation.

    Attributes:
        kind: ``majority`` (the most frequent label), ``nearest`` (the nearest neighbour's), or ``singular``.
        exponent: α of the singular kernel ‖x − x'‖^−α; 0 and infinity for the former two.
    """

    kind: str
    exponent: float


def taxonomy(activation: Callable[[Tensor], Tensor], tolerance: float = 1e-6) -> Taxonomy:
    r"""The classifier that depth tends to, by three numbers of the activation.

    With \(A_0 = \mathbb E[\sigma]\), \(A = \mathbb E[\sigma']\), \(B = \mathbb E[\sigma'^2]\): \(A_0 \ne 0\) gives the
    majority vote, \(A_0 = A = 0\) the nearest neighbour, all else a singular kernel with
    \(\alpha = -4 \log A / \log B\), consistent if α is the dimension of the sphere.

    Raises:
        ValueError: E[σ(g)²] other than 1.

    Source: Radhakrishnan, Belkin and Uhler, "Wide and Deep Neural Networks Achieve Optimality for
    Classification" (2022).
    """
    found, size = _coefficients(activation, 40)
    if abs(size - 1) > 1e-3:
        raise ValueError(f"E[σ(g)²] = {size:.4g} must be 1: divide the activation by {math.sqrt(size):.4g}")
    if abs(found[0]) > tolerance:
        return Taxonomy("majority", 0.0)
    if abs(found[1]) <= tolerance:
        return Taxonomy("nearest", math.inf)
    slope = float((np.arange(41) * found**2).sum())
    return Taxonomy("singular", -4 * math.log(abs(found[1])) / math.log(slope) if slope > 1 + 1e-9 else 0.0)


def optimal_activation(dim: int) -> tuple[Callable[[Tensor], Tensor], HermiteDual]:
    r"""An activation with α = `dim`, and its dual: \(a_1^2 = a_3^2 = 2^{-d/2}\), \(a_2^2 = 1 - 2^{1 - d/2}\).

    Raises:
        ValueError: dim below 2, where this form has no solution.
    """
    if dim < 2:
        raise ValueError(f"dim={dim}: the form with three coefficients needs a sphere of dimension 2 or more")
    share = 2.0 ** (-dim / 2)
    first, second = math.sqrt(share), math.sqrt(max(1 - 2 * share, 0.0))

    def activation(x: Tensor) -> Tensor:
        return first * x + second * (x**2 - 1) / math.sqrt(2) + first * (x**3 - 3 * x) / math.sqrt(6)

    return activation, HermiteDual((0.0, share, max(1 - 2 * share, 0.0), share))
