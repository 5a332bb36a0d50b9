"""A feed-forward layer that keeps its k largest activations."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TopKMLP", "TopKReLU"]


class TopKReLU(nn.Module):
    """ReLU, then all but the `k` largest units of each token set to zero; without k a plain ReLU.

    Gradients flow to the units that are kept, and to no other.

    Raises:
        ValueError: k below 1.

    >>> TopKReLU(2)(torch.tensor([[3.0, -1.0, 1.0, 2.0]]))
    tensor([[3., 0., 0., 2.]])

    Source: Li et al. (2022), section 4 (Top-k Transformer).
    """

    gives_zeros = True

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        if k is not None and k < 1:
            raise ValueError(f"k={k}: at least one unit must be kept (None keeps all)")
        self.k = k

    def forward(self, x: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch units"]:
        x = x.relu()
        if self.k is None or self.k >= x.shape[-1]:
            return x
        values, places = x.topk(self.k, dim=-1)
        return torch.zeros_like(x).scatter(-1, places, values)

    def extra_repr(self) -> str:
        return f"k={self.k}"


class TopKMLP(nn.Module):
    r"""\(W_2\,\mathrm{top}_k(\mathrm{relu}(W_1 x + b_1)) + b_2\).

    Args:
        width: features in and out.
        neurons: hidden units.
        k: how many are kept for each token; None keeps all that are positive.

    Raises:
        ValueError: k below 1.
    """

    def __init__(self, width: int, neurons: int, k: int | None = None) -> None:
        super().__init__()
        self.up = nn.Linear(width, neurons)
        self.activation = TopKReLU(k)
        self.down = nn.Linear(neurons, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.down(self.activation(self.up(x)))
