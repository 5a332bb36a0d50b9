r"""Networks of largest normalized margin on algebraic tasks: modular addition, sparse parity, finite groups.

A network that is a sum of neurons, homogeneous of degree q in each neuron's parameters θᵢ, is judged by
\[ \gamma = \frac{\min_x \big(f(x)_{y} - \max_{c \ne y} f(x)_c\big)}{\sum_i \|\theta_i\|_2^{\,q}}, \]
which no scale changes. For these tasks the largest γ is known, and so are networks that reach it.

Source: Morwani, Edelman, Oncescu, Zhao and Kakade, "Feature emergence via margin maximization" (2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = [
    "PairNetwork", "ParityNetwork", "cyclic_network", "group_margin", "group_network", "modular_margin",
    "normalized_margin", "parity_inputs", "parity_margin", "parity_network",
]  # fmt: skip


class PairNetwork(nn.Module):
    r"""\(f(a, b)_c = \sum_i (u_i(a) + v_i(b))^2\, w_i(c)\) over pairs of elements.

    Args:
        first, second: u and v, (neurons, elements).
        readout: w, (neurons, classes).

    Raises:
        ValueError: numbers of neurons or elements that differ.
    """

    degree = 3

    def __init__(
        self,
        first: Float[Tensor, "neurons elements"],
        second: Float[Tensor, "_ _"],
        readout: Float[Tensor, "_ classes"],
    ) -> None:
        super().__init__()
        if first.shape != second.shape or len(readout) != len(first):
            shapes = tuple(first.shape), tuple(second.shape), tuple(readout.shape)
            raise ValueError(f"first, second and readout {shapes} must agree in neurons, the former in elements too")
        self.first, self.second, self.readout = (nn.Parameter(t.clone()) for t in (first, second, readout))

    @classmethod
    def random(
        cls, elements: int, neurons: int, scale: float | int = 1.0, generator: torch.Generator | None = None
    ) -> PairNetwork:
        """Normal weights of standard deviation `scale`."""
        return cls(*(scale * torch.randn(neurons, elements, generator=generator) for _ in range(3)))

    def forward(self, pairs: Int[Tensor, "samples 2"]) -> Float[Tensor, "samples classes"]:
        hidden = self.first[:, pairs[:, 0]] + self.second[:, pairs[:, 1]]
        return hidden.square().mT @ self.readout

    def neurons(self) -> Float[Tensor, "neurons parameters"]:
        return torch.cat((self.first, self.second, self.readout), 1)


class ParityNetwork(nn.Module):
    r"""\(f(x) = \sum_i (u_i^T x)^k\, w_i\) with two outputs, of even and odd parity."""

    def __init__(self, first: Float[Tensor, "neurons bits"], readout: Float[Tensor, "_ 2"], power: int) -> None:
        super().__init__()
        if len(first) != len(readout) or power < 1:
            raise ValueError(f"{len(first)} and {len(readout)} neurons must agree, and power={power} be at least 1")
        self.first, self.readout = nn.Parameter(first.clone()), nn.Parameter(readout.clone())
        self.power, self.degree = power, power + 1

    def forward(self, bits: Float[Tensor, "samples bits"]) -> Float[Tensor, "samples 2"]:
        return (bits @ self.first.mT) ** self.power @ self.readout

    def neurons(self) -> Float[Tensor, "neurons parameters"]:
        return torch.cat((self.first, self.readout), 1)


def normalized_margin(
    network: PairNetwork | ParityNetwork, inputs: Tensor, labels: Int[Tensor, " samples"]
) -> Float[Tensor, ""]:
    """γ over the given inputs: the smallest lead of the right class, over the neurons' summed norms to the degree.

    Raises:
        ValueError: a network whose weights are all zero.
    """
    logits = network(inputs)
    size = (network.neurons().norm(dim=1) ** network.degree).sum()
    if not bool(size > 0):
        raise ValueError("all weights are zero: the margin cannot be normalized")
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    return (own - others).min() / size


def _odd_prime(p: int) -> None:
    if p < 3 or any(p % k == 0 for k in range(2, math.isqrt(p) + 1)):
        raise ValueError(f"p={p} must be an odd prime: for others the largest margin is not known")


def modular_margin(p: int) -> float:
    r"""The largest γ of addition mod p: \(\sqrt{2/27} \,/\, (\sqrt p\,(p - 1))\).

    Raises:
        ValueError: p that is not an odd prime.

    >>> round(modular_margin(5), 7)
    0.030429
    """
    _odd_prime(p)
    return math.sqrt(2 / 27) / (math.sqrt(p) * (p - 1))


def parity_margin(k: int) -> float:
    r"""The largest γ of the parity of k bits with units \(x^k\): \(k!\,\sqrt{2 (k+1)^{-(k+1)}}\).

    Raises:
        ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    return math.factorial(k) * math.sqrt(2 * (k + 1) ** -(k + 1))


def group_margin(dimensions: Sequence[int], order: int) -> float:
    r"""The largest γ of a group's products: \(2 / (3\sqrt{3|G|}\, \sum_n d_n^{5/2})\) over non-trivial irreps.

    It holds if every \(\sum_n d_n^{3/2} \chi_n(C)\) over them is negative for a class C other than the neutral one's,
    as in the symmetric groups of 3, 4 and 5 points.

    Raises:
        ValueError: dimensions whose squares, the trivial one's too, do not add up to the order.
    """
    if 1 + sum(d**2 for d in dimensions) != order:
        raise ValueError(f"dimensions={tuple(dimensions)} of the non-trivial representations: 1 + Σ d² must be {order}")
    return 2 / (3 * math.sqrt(3 * order) * sum(d**2.5 for d in dimensions))


def cyclic_network(p: int, dtype: torch.dtype = torch.float64) -> PairNetwork:
    r"""A network of 4(p − 1) neurons with the largest γ for a + b mod p.

    For every frequency ω, cosines with phases (0 or π/2) of which the readout's is the sum of the inputs' add up to
    \(\cos(\omega(a + b - c))\); a twin with second and readout negated removes the squares.

    Raises:
        ValueError: p that is not an odd prime.
    """
    _odd_prime(p)
    numbers = torch.arange(p, dtype=torch.float64) * (2 * math.pi / p)
    rows = []
    for frequency, a, b, sign in itertools.product(range(1, (p + 1) // 2), (0, 1), (0, 1), (1, -1)):
        wave = [torch.cos(frequency * numbers + quarter * math.pi / 2) for quarter in (a, b, a + b)]
        rows.append((wave[0], sign * wave[1], sign * wave[2]))
    return PairNetwork(*(torch.stack(part).to(dtype) for part in zip(*rows)))


def group_network(
    representations: Sequence[Float[Tensor, "order _ _"]], dtype: torch.dtype = torch.float64
) -> PairNetwork:
    r"""A network with the largest γ for a group's products, of 2 Σ d³ neurons, out of its non-trivial irreps.

    Neurons \(R(a)_{ij}, R(b)_{jk}, R(c)_{ik}\) add up to the character of \(a b c^{-1}\); weighted by the dimensions
    the characters add up to an indicator of c = a b.

    Raises:
        ValueError: representations that are not orthogonal, or whose dimensions do not fill the group.
    """
    order = len(representations[0])
    group_margin([r.shape[1] for r in representations], order)
    parts: list[list[Tensor]] = [[], [], []]
    for matrices in representations:
        dim = matrices.shape[1]
        if not bool((matrices @ matrices.mT - torch.eye(dim, dtype=matrices.dtype)).abs().max() < 1e-5):
            raise ValueError(f"the matrices of the representation of dimension {dim} are not orthogonal")
        scale = (dim / 4) ** (1 / 3)
        for i, j, k, sign in itertools.product(range(dim), range(dim), range(dim), (1, -1)):
            waves = matrices[:, i, j], sign * matrices[:, j, k], sign * matrices[:, i, k]
            for part, wave in zip(parts, waves):
                part.append(scale * wave)
    return PairNetwork(*(torch.stack(part).to(dtype) for part in parts))


def parity_inputs(bits: int) -> Float[Tensor, "samples bits"]:
    """All vectors of ±1."""
    return torch.tensor(list(itertools.product((1.0, -1.0), repeat=bits)), dtype=torch.float64)


def parity_network(bits: int, k: int) -> ParityNetwork:
    r"""A network of \(2^k\) neurons with the largest γ for the parity of the first k of `bits` signs.

    Raises:
        ValueError: k outside 1 … bits.
    """
    if not 1 <= k <= bits:
        raise ValueError(f"k={k} must lie in 1 … bits={bits}")
    signs = parity_inputs(k)
    first = torch.zeros(2**k, bits, dtype=torch.float64)
    first[:, :k] = signs / math.sqrt(k + 1)
    readout = signs.prod(1)[:, None] * torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2 * (k + 1))
    return ParityNetwork(first, readout, k)
