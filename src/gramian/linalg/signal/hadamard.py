"""The Walsh–Hadamard transform in O(d log d)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["fwht", "hadamard_matrix"]

_BLOCK = 6  # a dense 64×64 product is faster than six butterflies over memory


def _check_power_of_two(size: int) -> int:
    if size < 1 or size & (size - 1):
        below = 1 << max(size.bit_length() - 1, 0)
        raise ValueError(f"a Hadamard transform needs a power of two, not {size}; cut to {below} or pad to {2 * below}")
    return size.bit_length() - 1


def hadamard_matrix(
    size: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "n n"]:
    """Sylvester's Hadamard matrix with entries ±1: H₁ = 1, H₂ₙ = [[Hₙ, Hₙ], [Hₙ, −Hₙ]].

    Raises:
        ValueError: a size that is not a power of two.
    """
    steps = _check_power_of_two(size)
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=dtype, device=device)
    for _ in range(steps):
        matrix = torch.kron(step, matrix)
    return matrix


def fwht(x: Float[Tensor, "*batch d"], normalized: bool = True) -> Float[Tensor, "*batch d"]:
    """H x along the last axis, in natural (Sylvester) order; with `normalized`, H/√d, its own inverse.

    H_{2^m} is a Kronecker product, so the axis is cut into factors of at most 64 and each is multiplied
    by a small dense matrix.

    Raises:
        ValueError: a last axis that is not a power of two.

    >>> fwht(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    size = x.shape[-1]
    steps = _check_power_of_two(size)
    shape, done = x.shape, 1
    while steps:
        take = min(_BLOCK, steps)
        block = hadamard_matrix(1 << take, x.dtype, x.device)
        if normalized:
            block = block * 2 ** (-take / 2)
        # the axis factors as (rest, block, done); only the middle one is transformed now
        x = torch.matmul(block, x.reshape(-1, 1 << take, done)) if done > 1 else x.reshape(-1, 1 << take) @ block
        done <<= take
        steps -= take
    return x.reshape(shape)
