"""Initial weights of ordinary layers from a generator of the caller's."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["redraw_"]


def redraw_(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw linear and convolution layers in `module` anew: uniform in ±1/√fan_in, as torch starts them.

    Without a generator they stay as torch drew them.

    >>> layer = nn.Linear(4, 2)
    >>> redraw_(layer, torch.Generator().manual_seed(0))
    >>> bool(layer.weight.abs().max() <= 0.5)
    True
    """
    if generator is None:
        return
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d):
                bound = 1 / math.sqrt(part.weight[0].numel())
                part.weight.uniform_(-bound, bound, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-bound, bound, generator=generator)
