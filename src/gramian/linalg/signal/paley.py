r"""Hadamard matrices of sizes that are no power of two, by Paley's construction, and their fast transform.

For a prime \(q \equiv 3 \pmod 4\) the Legendre symbols \(Q_{ij} = \left(\frac{i-j}{q}\right)\) give a Hadamard matrix
of size q + 1: 4, 8, 12, 20, 24, 32, 44, … A Kronecker product with Sylvester's matrices doubles the size any number of
times, so that 1536 = 12 · 128, 2560 = 20 · 128 and 5120 = 20 · 256 have one, the widths of many networks.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.signal.hadamard import fwht, hadamard_matrix

__all__ = ["hadamard_of_size", "hadamard_transform", "paley", "split_size"]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % d for d in range(2, int(number**0.5) + 1))


def _has_paley(order: int) -> bool:
    return order % 4 == 0 and _is_prime(order - 1)


def paley(
    order: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "n n"]:
    r"""Paley's first matrix, entries ±1: \(I + \begin{pmatrix} 0 & 1^T \\ -1 & Q \end{pmatrix}\).

    Raises:
        ValueError: an order that is not a prime ≡ 3 (mod 4) plus one.

    >>> P = paley(12)
    >>> bool((P @ P.T == 12 * torch.eye(12)).all())
    True
    """
    if not _has_paley(order):
        raise ValueError(f"order={order}: Paley's matrix needs a prime 4k + 3, plus one: 4, 8, 12, 20, 24, …")
    prime = order - 1
    symbols = torch.full((prime,), -1.0, dtype=dtype, device=device)
    squares = torch.arange(1, prime, device=device).square() % prime
    symbols[squares] = 1.0
    symbols[0] = 0.0
    place = torch.arange(prime, device=device)
    matrix = torch.ones(order, order, dtype=dtype, device=device)
    matrix[1:, 0] = -1.0
    matrix[1:, 1:] = symbols[(place[:, None] - place) % prime]
    matrix.diagonal()[1:] += 1.0
    return matrix


@cache
def split_size(size: int) -> tuple[int, int]:
    """(base, power of two) with base · power = size: base 1, or the smallest order of Paley's that does.

    Raises:
        ValueError: no such pair; the message names the next sizes below and above that have one.

    >>> split_size(1536), split_size(5120), split_size(64)
    ((12, 128), (20, 256), (1, 64))
    """
    found = _split(size)
    if found is None:
        below = next((s for s in range(size - 1, 0, -1) if _split(s)), None)
        above = next(s for s in range(max(size, 0) + 1, 4 * max(size, 1) + 1) if _split(s))
        raise ValueError(f"no Hadamard matrix of size {size} is built here; the next sizes are {below} and {above}")
    return found


def _split(size: int) -> tuple[int, int] | None:
    if size < 1:
        return None
    power = size & -size
    odd = size // power
    if odd == 1:
        return 1, size
    for doublings in range(2, power.bit_length()):
        if _has_paley(odd << doublings):
            return odd << doublings, power >> doublings
    return None


def hadamard_of_size(
    size: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "n n"]:
    r"""The matrix H of `hadamard_transform`, entries ±1: Paley's ⊗ Sylvester's; \(H H^T = n I\).

    Raises:
        ValueError: a size that is neither a power of two nor one times an order of Paley's.
    """
    base, power = split_size(size)
    sylvester = hadamard_matrix(power, dtype, device)
    return sylvester if base == 1 else torch.kron(paley(base, dtype, device), sylvester)


def hadamard_transform(
    x: Float[Tensor, "*batch d"], normalized: bool = True, transpose: bool = False
) -> Float[Tensor, "*batch d"]:
    r"""\(H x\) along the last axis (\(H^T x\) with `transpose`); with `normalized`, \(H / \sqrt d\), an orthogonal map.

    A small dense product with Paley's matrix and the fast Walsh–Hadamard transform: O(d log d) for a fixed base. Only
    for powers of two is H symmetric; elsewhere the transposed transform is the inverse.

    Raises:
        ValueError: as `hadamard_of_size`.

    >>> x = torch.arange(12.0)
    >>> torch.allclose(hadamard_transform(hadamard_transform(x), transpose=True), x, atol=1e-5)
    True
    """
    base, power = split_size(x.shape[-1])
    if base == 1:
        return fwht(x, normalized)
    matrix = paley(base, x.dtype, x.device)
    if normalized:
        matrix = matrix * base**-0.5
    parts = fwht(x.unflatten(-1, (base, power)), normalized)
    return torch.matmul(matrix.mT if transpose else matrix, parts).flatten(-2)
