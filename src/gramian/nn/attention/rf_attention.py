r"""Attention with random frozen queries and keys and trainable values, through a ReLU."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.random.arc_cosine import with_constant

__all__ = ["RandomFeatureAttention"]


class RandomFeatureAttention(nn.Module):
    r"""\(f(x) = M^{-1/2} \sum_m \big\langle v_m, \frac1N \sum_i \mathrm{relu}(x_0^T W_m x_i)\, x_i\big\rangle\).

    The first token is the query. \(W_m = \mu I + G_m\) with standard normal \(G_m\) is drawn once; only \(v_m\) is
    trained, so the layer is linear in what it learns, and permuting the keys changes nothing.

    Args:
        features: d, of every token.
        heads: M.
        mean: μ; not zero makes heads that look at \(\langle x_0, x_i\rangle\).
        constant: whether a 1 is appended to every token, without which all functions are homogeneous. μ is not
            added to its place in W.
        outputs: numbers that come out.
        generator: draws W.

    Raises:
        ValueError: sizes below 1, a mean that is not finite; in `forward`, tokens of another width or no key.

    Source: Fu, Guo, Bai and Mei, "What can a Single Attention Layer Learn?" (2023), equations 2 and 3; section 4.

    >>> layer = RandomFeatureAttention(3, heads=5, generator=torch.Generator().manual_seed(0))
    >>> layer(torch.ones(2, 4, 3)).shape
    torch.Size([2, 1])
    """

    query_key: Tensor

    def __init__(
        self,
        features: int,
        heads: int,
        *,
        mean: float | int = 0.0,
        constant: bool = True,
        outputs: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(features, heads, outputs) < 1:
            raise ValueError(f"features={features}, heads={heads}, outputs={outputs} must be at least 1")
        if not math.isfinite(mean):
            raise ValueError(f"mean={mean} must be finite")
        self.mean = float(mean)
        self.features, self.constant = features, constant
        width = features + constant
        middle = torch.eye(width)
        middle[features:] = 0
        self.register_buffer("query_key", torch.randn(heads, width, width, generator=generator) + self.mean * middle)
        self.value = nn.Parameter(torch.zeros(heads * width, outputs))

    @property
    def heads(self) -> int:
        return self.query_key.shape[0]

    def feature_map(self, x: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "samples numbers"]:
        """Every head's weighted mean of the keys, side by side and over √M: what the values multiply."""
        heads, width = self.query_key.shape[:2]
        if x.shape[2] != self.features:
            raise ValueError(f"tokens of {x.shape[2]} numbers do not fit features={self.features}")
        if x.shape[1] < 2:
            raise ValueError("at least one key after the query is needed")
        if self.constant:
            x = with_constant(x)
        query, keys = x[:, 0], x[:, 1:]
        # the query goes through W first: (samples · heads, features) is all that has to be kept
        asked = (query @ self.query_key.transpose(0, 1).reshape(width, -1)).reshape(len(x), heads, width)
        weights = torch.relu(asked @ keys.mT) / keys.shape[1]
        return (weights @ keys).flatten(1) / math.sqrt(heads)

    def forward(self, x: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "samples outputs"]:
        return self.feature_map(x) @ self.value

    def extra_repr(self) -> str:
        return f"features={self.features}, heads={self.heads}, mean={self.mean:g}, constant={self.constant}"
