r"""The short causal convolution of each channel by itself, as it stands in front of recurrences.

\[ y_t = \phi\Big(b + \sum_{j=0}^{w-1} W_j \odot x_{t-w+1+j}\Big), \qquad \phi = \mathrm{id} \text{ or silu}, \]

with a few taps (w = 4) and thousands of positions and channels, is bound by memory. One pass over rows with channels
last reads x once and writes y once; the activation costs no pass of its own, and rows may lie apart, as slices of a
wider projection do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gramian.linalg.signal.short_convolution_ops import convolve

__all__ = ["short_convolution", "short_convolution_reference"]


def short_convolution(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    state: Float[Tensor, "batch channels carried"] | None = None,
    *,
    silu: bool = False,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels carried"]]:
    """Outputs, and the last width − 1 inputs to go on from; compiled on the CPU in float32 and float64.

    Args:
        x: the sequence; the channels of a position must lie side by side, positions may lie apart.
        weight: the taps, the last one for the present input.
        bias: added to each output.
        state: the width − 1 inputs before the first; zeros if not given.
        silu: whether y · sigmoid(y) goes out instead of y.

    Raises:
        ValueError: an empty sequence, or sizes that do not fit.

    >>> y, carried = short_convolution(torch.arange(1.0, 5).view(1, 4, 1), torch.ones(1, 2))
    >>> y.flatten(), carried.flatten()
    (tensor([1., 3., 5., 7.]), tensor([4.]))
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    if not length:
        raise ValueError(f"x has shape {tuple(x.shape)}: at least one position is needed")
    if state is None:
        state = x.new_zeros(batch, channels, width - 1)
    sizes = {"weight": (weight, (channels, width)), "bias": (bias, (channels,))}
    for name, (tensor, shape) in (sizes | {"state": (state, (batch, channels, width - 1))}).items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; with x {tuple(x.shape)} it must be {shape}")
    state = state.to(x.dtype)
    kept = torch.cat((state, x[:, max(0, length - width + 1) :].mT), -1)
    carried = kept[..., kept.shape[-1] - width + 1 :]
    one_kind = all(t is None or t.dtype == x.dtype for t in (weight, bias))
    compiled = x.device.type == "cpu" and one_kind and x.dtype in (torch.float32, torch.float64) and x.numel()
    if length == 1 or not compiled:
        return short_convolution_reference(x, weight, bias, state, silu=silu), carried
    return convolve(x, weight, bias, state, silu), carried


def short_convolution_reference(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch channels carried"],
    *,
    silu: bool = False,
) -> Float[Tensor, "batch length channels"]:
    """`short_convolution` in plain PyTorch, on any device and differentiable as often as asked: the oracle."""
    padded = torch.cat((state.to(x.dtype), x.mT), -1)
    if x.shape[1] == 1:
        y = (padded * weight).sum(-1)[:, None]
        y = y if bias is None else y + bias
    else:
        y = F.conv1d(padded, weight[:, None], bias, groups=x.shape[2]).mT
    return F.silu(y) if silu else y
