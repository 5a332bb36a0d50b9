r"""Convolutions of which each image gets only the channels that are predicted to fire.

A layer's target mask comes from its own output: with \(a_c = \max_{hw} |y_{chw}|\), sorted downwards, the channels
are kept up to the one that brings the sum over a share r of \(\sum_c a_c\); channels that are zero never are. A small
predictor reads the layer's input and learns that mask as labels.

Source: Elkerdawy et al., Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask
Prediction (2021), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Fired", "MaskPredictor", "MaskedConvBNReLU", "firing_mask"]

MODES = ("dense", "target", "predicted")


def firing_mask(
    maps: Float[Tensor, "batch channels *space"], *, mass: float | int | None = None, keep: float | int | None = None
) -> Bool[Tensor, "batch channels"]:
    r"""The channels of each image that fire together: those that hold the `mass` of its heat maps.

    In falling order of \(a_c = \max |y_c|\), channel j is kept while \(\sum_{i<j} a_i < r \sum_i a_i\): the one that
    crosses the mass is the last. With `keep` the same share of the channels is kept for every image. A channel of
    zeros is never kept.

    Args:
        mass: r in (0, 1]; 1 keeps every channel that is not zero.
        keep: in place of `mass`: the share of channels in (0, 1], rounded up.

    Raises:
        ValueError: not exactly one of mass and keep, or one outside (0, 1].

    >>> firing_mask(torch.tensor([[5.0, 0.0, 1.0, 4.0]]), mass=0.6).tolist()
    [[True, False, False, True]]
    """
    _check_share(mass, keep)
    peaks = maps.detach().abs().flatten(2).amax(2) if maps.ndim > 2 else maps.detach().abs()
    if mass == 1 or keep == 1:
        return peaks > 0
    ordered, order = peaks.double().sort(dim=1, descending=True, stable=True)
    if mass is not None:
        before = ordered.cumsum(1) - ordered
        kept = before < mass * ordered.sum(1, keepdim=True)
    else:
        count = -int(-keep * peaks.shape[1] // 1)  # type: ignore[operator]
        kept = (torch.arange(peaks.shape[1], device=maps.device) < count).expand_as(ordered)
    return torch.zeros_like(kept).scatter(1, order, kept) & (peaks > 0)


def _check_share(mass: float | None, keep: float | None) -> None:
    if (mass is None) == (keep is None):
        raise ValueError(f"give exactly one of mass= and keep=, not mass={mass}, keep={keep}")
    share = mass if mass is not None else keep
    if not 0 < share <= 1:  # type: ignore[operator]
        raise ValueError(f"mass={mass}, keep={keep}: a share is in (0, 1]; 1 keeps every channel that is not zero")


class MaskPredictor(nn.Module):
    """Which channels of a layer will fire, from its pooled input: one linear map.

    Args:
        in_channels, out_channels: of the layer.
        pool: ``"max"`` or ``"mean"`` over space.
        rate: its learning rate as a multiple of the network's.
    """

    def __init__(self, in_channels: int, out_channels: int, pool: str = "max", rate: float | int = 1.0) -> None:
        super().__init__()
        if pool not in ("max", "mean"):
            raise ValueError(f"pool={pool!r} is not 'max' or 'mean'")
        self.pool, self.rate = pool, rate
        self.linear = nn.Linear(in_channels, out_channels)
        # at first every channel is on: the network starts as the one it was
        nn.init.zeros_(self.linear.weight)
        nn.init.ones_(self.linear.bias)

    def parameter_groups(self, lr: float | int, weight_decay: float | int) -> list[dict[str, Any]]:
        return [{"params": list(self.parameters()), "lr": self.rate * lr, "weight_decay": 0.0}]

    def forward(self, x: Float[Tensor, "batch in_channels height width"]) -> Float[Tensor, "batch out_channels"]:
        return self.linear(x.amax((2, 3)) if self.pool == "max" else x.mean((2, 3)))


@dataclass(frozen=True)
class Fired:
    """What one layer did in its last pass, image by image.

    Attributes:
        inputs, outputs: channels of the input that are not zero, and channels computed.
        macs: multiply–accumulates of the convolution on those channels.
        agreement: share of the channels whose mask is the target's (NaN where the target is not known).
    """

    inputs: Tensor
    outputs: Tensor
    macs: Tensor
    agreement: Tensor


class MaskedConvBNReLU(nn.Module):
    """A convolution, its normalization and its ReLU, of which each image gets the channels that are predicted to fire.

    In evaluation mode a single image is computed with the active channels alone: the weight's rows of the
    channels that are on, and its columns of the input channels that are not zero. A batch is computed whole and masked.

    Args:
        conv, norm, activation: the layer; norm is batch normalization or `nn.Identity`.
        predictor: input → logits of the mask.
        mass, keep: of the target; see `firing_mask`.
        decoupled: the predictor's loss does not reach the layers below it.
        straight_through: whether the task's loss also trains the predictor, through the rounding of its probability.

    Attributes:
        mode: ``"predicted"``; ``"target"`` masks by the target itself; ``"dense"`` masks nothing.
        mask_loss: in training, the predictor's binary cross-entropy of the last pass.
        fired: what the last pass did.
        dense_macs: multiply–accumulates that an image takes with every channel on.

    Raises:
        ValueError: a share outside (0, 1], or a grouped convolution.
    """

    def __init__(
        self, conv: nn.Conv2d, norm: nn.Module, activation: nn.Module, predictor: nn.Module, *,
        mass: float | int | None = None, keep: float | int | None = None, decoupled: bool = True,
        straight_through: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_share(mass, keep)
        if conv.groups != 1:
            raise ValueError(f"a convolution in {conv.groups} groups cannot drop channels one by one; leave it out")
        self.conv, self.norm, self.activation, self.predictor = conv, norm, activation, predictor
        self.mass, self.keep, self.decoupled, self.straight_through = mass, keep, decoupled, straight_through
        self.mode = "predicted"
        self.mask_loss: Tensor | None = None
        self.fired: Fired | None = None
        self.dense_macs = 0

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels high wide"]:
        if self.mode == "predicted" and not self.training and len(x) == 1:
            return self._gathered(x)
        out = self.activation(self.norm(self.conv(x)))
        target = firing_mask(out, mass=self.mass, keep=self.keep)
        if self.mode == "predicted":
            logits = self.predictor(x.detach() if self.decoupled else x)
            if self.training:
                self.mask_loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
            mask = (logits > 0).to(out.dtype)
            if self.straight_through:
                chance = logits.sigmoid()
                mask = mask + chance - chance.detach()
        else:
            mask = (target if self.mode == "target" else torch.ones_like(target)).to(out.dtype)
        on = mask.detach() > 0.5
        self._note(_not_zero(x), on, out, (on == target).double().mean(1))
        return out * mask[:, :, None, None]

    def _gathered(self, x: Tensor) -> Tensor:
        on, inside = self.predictor(x) > 0, _not_zero(x)
        rows, columns = on[0].nonzero().flatten(), inside[0].nonzero().flatten()
        # with nothing on, or nothing coming in, one channel is computed for the shape
        some = rows if len(rows) else rows.new_zeros(1)
        columns = columns if len(columns) else columns.new_zeros(1)
        conv, norm = self.conv, self.norm
        bias = None if conv.bias is None else conv.bias[some]
        part = conv._conv_forward(x[:, columns], conv.weight[some][:, columns], bias)
        if isinstance(norm, nn.BatchNorm2d):
            scale, shift = (None if p is None else p[some] for p in (norm.weight, norm.bias))
            part = F.batch_norm(part, norm.running_mean[some], norm.running_var[some], scale, shift, eps=norm.eps)
        part = self.activation(part)
        out = part.new_zeros(1, conv.out_channels, *part.shape[2:]).index_copy(1, rows, part[:, : len(rows)])
        self._note(inside, on, out, torch.full((1,), torch.nan, dtype=torch.float64, device=x.device))
        return out

    def _note(self, inside: Tensor, on: Tensor, out: Tensor, agreement: Tensor) -> None:
        inputs, outputs = inside.sum(1), on.sum(1)
        each = self.conv.kernel_size[0] * self.conv.kernel_size[1] * out.shape[2] * out.shape[3]
        self.fired = Fired(inputs, outputs, each * inputs * outputs, agreement)
        self.dense_macs = each * self.conv.in_channels * self.conv.out_channels


def _not_zero(x: Tensor) -> Tensor:
    return x.detach().abs().amax((2, 3)) > 0
