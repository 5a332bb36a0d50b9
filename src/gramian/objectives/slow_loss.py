"""Draw the kernels of a network's blocks together: an error that slow networks get without the labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from jaxtyping import Float
from torch import Tensor

__all__ = ["slow_loss"]


def slow_loss(kernels: Sequence[Float[Tensor, "_ _ _"]]) -> Float[Tensor, ""]:
    r"""\(\sum_{i < j} \operatorname{mean}\,(\mathrm{tile}(W_i) - W_j)^2\) over all pairs of blocks.

    A kernel of fewer channels is repeated, whole, until it has as many as the other. Added to the loss of the labels.

    Args:
        kernels: the global kernels of the blocks in order, (channels, height, width) each; two at least.

    Raises:
        ValueError: fewer than two kernels, planes of different sizes, or channels that are no multiple of those of
            every block before.

    Source: Zhang, "HyperZ·Z·W Operator Connects Slow-Fast Networks for Full Context Interaction" (2024), "slow neural
    loss", in the form of the released code.

    >>> import torch
    >>> one = torch.ones(1, 2, 2)
    >>> float(slow_loss([one, one.tile(3, 1, 1)])), float(slow_loss([one, 3 * one]))
    (0.0, 4.0)
    """
    if len(kernels) < 2:
        raise ValueError(f"{len(kernels)} kernel(s): a distance needs two at least")
    total = kernels[0].new_zeros(())
    for first, second in combinations(kernels, 2):
        if first.shape[1:] != second.shape[1:] or len(second) % len(first):
            raise ValueError(
                f"kernels of {tuple(first.shape)} and then {tuple(second.shape)}: the planes must be alike, and the "
                "channels a multiple of those before"
            )
        total = total + (first.tile(len(second) // len(first), 1, 1) - second).square().mean()
    return total
