"""Losses of forecasts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["fading_l1"]


def fading_l1(
    forecast: Float[Tensor, "batch horizon channels"],
    future: Float[Tensor, "batch horizon channels"],
    fading: float = 0.5,
) -> Float[Tensor, ""]:
    r"""Mean of \(h^{-\alpha}\,|\hat y_h - y_h|\): absolute errors, those far ahead weighing less.

    Args:
        fading: α; 0 weighs all steps alike.

    Source: the loss of CARD (Wang et al., 2023), as OLinear (arXiv 2505.08550) uses it with α = 1/2.

    >>> fading_l1(torch.ones(1, 4, 1), torch.zeros(1, 4, 1), fading=1.0)
    tensor(0.5208)
    """
    steps = torch.arange(1, forecast.shape[1] + 1, device=forecast.device, dtype=forecast.dtype)
    return ((forecast - future).abs() * steps.pow(-fading)[:, None]).mean()
