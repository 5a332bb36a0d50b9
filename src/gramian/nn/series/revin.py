"""Reversible instance normalization: each window is standardized, forecast, and scaled back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["ReversibleNorm", "Scale"]


class Scale(NamedTuple):
    """Mean and standard deviation over time of each window and channel."""

    mean: Float[Tensor, "batch 1 channels"]
    std: Float[Tensor, "batch 1 channels"]


class ReversibleNorm(nn.Module):
    r"""Standardize each channel of each window over time, and undo it on what a model makes of it.

    \(\hat x = \gamma (x - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta\) with the biased variance; no gradient goes through
    \(\mu\) and \(\sigma\). A forecaster between `normalize` and `restore` is equivariant: f(a x + b) = a f(x) + b for
    a > 0, up to ε.

    Args:
        channels: number of channels of the learned γ and β; None for γ = 1, β = 0 and any number of channels.
        eps: added to the variance, so that a constant series is allowed.

    Raises:
        ValueError: eps that is not positive, or another number of channels than γ has.

    Source: Kim et al., "Reversible Instance Normalization for Accurate Time-Series Forecasting against Distribution
    Shift" (2022); without γ and β, the normalization of Liu et al., "Non-stationary Transformers" (2022).

    >>> norm = ReversibleNorm()
    >>> x = torch.tensor([[[1.0], [3.0]]])
    >>> flat, scale = norm.normalize(x)
    >>> norm.restore(flat, scale).flatten()
    tensor([1., 3.])
    """

    def __init__(self, channels: int | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps={eps} must be positive, or a constant series is divided by zero")
        self.eps = eps
        self.weight = None if channels is None else nn.Parameter(torch.ones(channels))
        self.bias = None if channels is None else nn.Parameter(torch.zeros(channels))

    def normalize(
        self, x: Float[Tensor, "batch length channels"], seen: Bool[Tensor, "batch length channels"] | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], Scale]:
        """The standardized window and what `restore` needs; `seen` marks the entries to trust, the others become 0.

        Raises:
            ValueError: a channel of which nothing is seen, or another number of channels than γ has.
        """
        if self.weight is not None and x.shape[-1] != len(self.weight):
            raise ValueError(f"x has {x.shape[-1]} channels, but the scale was made for {len(self.weight)}")
        with torch.no_grad():
            if seen is None:
                mean = x.mean(1, keepdim=True)
                std = (x.var(1, keepdim=True, unbiased=False) + self.eps).sqrt()
            else:
                count = seen.sum(1, keepdim=True)
                if not bool((count > 0).all()):
                    raise ValueError("a channel of a window is masked everywhere; at least one entry must be seen")
                mean = x.where(seen, x.new_zeros(())).sum(1, keepdim=True) / count
                centred = (x - mean).where(seen, x.new_zeros(()))
                std = (centred.square().sum(1, keepdim=True) / count + self.eps).sqrt()
        scale = Scale(mean, std)
        flat = (x - scale.mean) / scale.std
        if seen is not None:
            flat = flat.where(seen, flat.new_zeros(()))
        if self.weight is not None:
            flat = flat * self.weight + self.bias
        return flat, scale

    def restore(
        self, y: Float[Tensor, "batch horizon channels"], scale: Scale
    ) -> Float[Tensor, "batch horizon channels"]:
        """The inverse of `normalize`, for any number of steps."""
        if self.weight is not None:
            y = (y - self.bias) / (self.weight + self.eps**2)
        return y * scale.std + scale.mean
