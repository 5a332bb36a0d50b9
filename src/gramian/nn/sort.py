"""Sorting as a layer: tokens in the order of their scores, softly, so that the scores can be learned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["SoftSort", "soft_permutation"]


def soft_permutation(
    scores: Float[Tensor, "*batch length"], tau: float | int = 1.0
) -> Float[Tensor, "*batch length length"]:
    r"""Row i is \(\mathrm{softmax}_j(-|s_{(i)} - s_j| / \tau)\), \(s_{(i)}\) the i-th smallest score.

    Rows sum to one; for \(\tau \to 0\) it is the permutation that sorts (scores without ties).

    Raises:
        ValueError: a temperature that is not positive.

    Source: Prillo and Eisenschlos, "SoftSort: A Continuous Relaxation for the argsort Operator", 2020, equation 3.

    >>> soft_permutation(torch.tensor([3.0, 1.0, 2.0]), tau=0.01).round()
    tensor([[0., 1., 0.],
            [0., 0., 1.],
            [1., 0., 0.]])
    """
    if not tau > 0:
        raise ValueError(f"tau={tau}: the temperature of a soft sort is positive")
    ordered = scores.sort(-1).values
    return torch.softmax(-(ordered[..., :, None] - scores[..., None, :]).abs() / tau, -1)


class SoftSort(nn.Module):
    r"""Order tokens by learned scores \(s_l = k \cdot x_l\), ascending, before a scan.

    Every place reads all tokens: not for models that must not see ahead.

    Args:
        channels: of the tokens.
        tau: temperature.
        generator: of the initial scores.

    Raises:
        ValueError: channels below 1, or a temperature that is not positive.

    Source: Vo et al., "Demystifying the Token Dynamics of Deep Selective State Space Models", 2024, section 5.2.
    """

    def __init__(self, channels: int, tau: float | int = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if channels < 1 or not tau > 0:
            raise ValueError(f"channels={channels} and tau={tau}: both are positive")
        self.tau = float(tau)
        self.key = nn.Parameter(torch.randn(channels, generator=generator) * channels**-0.5)

    def forward(self, x: Float[Tensor, "batch length channels"]) -> Float[Tensor, "batch length channels"]:
        return soft_permutation(x @ self.key, self.tau) @ x
