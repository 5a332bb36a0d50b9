"""Keep the states of neighbouring layers alike in direction, by their cosines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["layer_cosine_loss"]


def layer_cosine_loss(states: Sequence[Float[Tensor, "*samples width"]], *, eps: float = 1e-8) -> Float[Tensor, ""]:
    r"""\(\sum_l \operatorname{mean}\,(1 - \cos(f_l, f_{l-1}))\) over the layers, the mean over all positions.

    Added to a language model's loss, λ times, it draws the directions of neighbouring states together.

    Args:
        states: the residual stream after every layer, in order; at least two.
        eps: norms below it count as it.

    Raises:
        ValueError: fewer than two states, or states of different shapes.

    Source: Razzhigaev et al., Your Transformer is Secretly Linear (2024), section 6.

    >>> one = torch.tensor([[1.0, 0.0]])
    >>> float(layer_cosine_loss([one, 2 * one, torch.tensor([[0.0, 3.0]])]))
    1.0
    """
    if len(states) < 2:
        raise ValueError(f"{len(states)} state(s): neighbours need two layers at least")
    shapes = {tuple(s.shape) for s in states}
    if len(shapes) > 1:
        raise ValueError(f"states of shapes {sorted(shapes)}: neighbouring layers have one shape")
    total = states[0].new_zeros(())
    for before, after in pairwise(states):
        total = total + (1 - torch.nn.functional.cosine_similarity(before, after, dim=-1, eps=eps)).mean()
    return total
