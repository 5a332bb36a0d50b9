r"""The loss of the worst group, followed by weights that grow where the loss is large."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["GroupDRO"]


class GroupDRO(nn.Module):
    r"""\(\sum_g q_g \bar\ell_g\) with \(q_g \leftarrow q_g\,e^{\eta \bar\ell_g} / \sum\), \(\bar\ell_g\) a mean loss.

    Groups that a batch does not hold keep their weight up to the scaling. The weights change when the module trains.

    Args:
        groups: how many.
        rate: η.

    Raises:
        ValueError: fewer than one group, a rate that is not positive; in `forward`, a group outside 0 … groups − 1.

    Source: Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks" (2020), algorithm 1.
    """

    weights: Tensor

    def __init__(self, groups: int, rate: float | int = 0.01) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups={groups} must be at least 1")
        if not 0 < rate < float("inf"):
            raise ValueError(f"rate={rate} must be positive and finite")
        self.groups, self.rate = groups, float(rate)
        self.register_buffer("weights", torch.full((groups,), 1 / groups))

    def forward(self, losses: Float[Tensor, " batch"], groups: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < self.groups:
            raise ValueError(f"groups {int(groups.min())} … {int(groups.max())} do not fit 0 … {self.groups - 1}")
        counts = torch.bincount(groups, minlength=self.groups)
        total = losses.new_zeros(self.groups).index_add(0, groups, losses)
        means = total / counts.clamp(min=1)
        if self.training:
            grown = self.weights.log() + self.rate * means.detach().to(self.weights.dtype)
            self.weights.copy_(grown.softmax(0))
        return (self.weights.to(means.dtype).clone() * means).sum()

    def extra_repr(self) -> str:
        return f"groups={self.groups}, rate={self.rate:g}"
