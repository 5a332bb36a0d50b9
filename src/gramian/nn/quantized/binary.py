r"""Layers of binary weights and activations, trained through a periodic function (BiPer)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor.quant.binary import pack_signs, sign_matmul

__all__ = [
    "BiPerConv2d", "BiPerLinear", "PackedConv2d", "PackedLinear", "UntrainedStage", "binary_sign", "set_stage",
    "square_wave",
]  # fmt: skip


class UntrainedStage(UserWarning):
    """The second stage was entered without weights from the first."""


class _SquareWave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, frequency: float) -> Tensor:
        ctx.save_for_backward(w)
        ctx.frequency = frequency
        return _signs(torch.sin(frequency * w))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (w,) = ctx.saved_tensors
        return ctx.frequency * torch.cos(ctx.frequency * w) * gradients[0], None


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return _signs(a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return (2 - 2 * a.abs()).clamp(min=0) * gradients[0]


def _signs(x: Tensor) -> Tensor:
    """−1 and +1; the sign of 0 is +1, where torch.sign would leave a third value."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def square_wave(w: Float[Tensor, "*shape"], frequency: float | int = 20.0) -> Float[Tensor, "*shape"]:
    r"""\(\mathrm{sign}(\sin \omega w)\), with the derivative of \(\sin \omega w\): \(\omega \cos \omega w\).

    Raises:
        ValueError: a frequency that is not positive.

    Source: Vargas et al., BiPer: Binary Neural Networks using a Periodic Function (2024).

    >>> square_wave(torch.tensor([0.0, 0.1, 0.2, -0.1]))
    tensor([ 1.,  1., -1., -1.])
    """
    _check_frequency(frequency)
    return _SquareWave.apply(w, float(frequency))


def binary_sign(a: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""\(\mathrm{sign}(a)\), +1 at zero, with the derivative \(\max(2 - 2|a|, 0)\) of a piecewise parabola."""
    return _Sign.apply(a)


def _check_frequency(frequency: float | int) -> None:
    if not 0 < frequency < float("inf"):
        raise ValueError(f"frequency={frequency} must be positive and finite; the paper takes 20")


class _BiPer(nn.Module):
    """What the linear layer and the convolution share."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    seen: Tensor

    def _prepare(self, frequency: float | int, stage: int) -> None:
        _check_frequency(frequency)
        self.frequency = float(frequency)
        fan_in = self.weight[0].numel()
        self.scale = nn.Parameter(torch.full((len(self.weight),), fan_in**-0.5, dtype=self.weight.dtype))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._stage = 1
        if stage != 1:
            self.stage = stage

    @property
    def stage(self) -> int:
        """1: real weights sin(ωw); 2: their signs."""
        return self._stage

    @stage.setter
    def stage(self, stage: int) -> None:
        if stage not in (1, 2):
            raise ValueError(f"stage={stage} is neither 1 (real sines) nor 2 (their signs)")
        if stage == 2 and not int(self.seen):
            warnings.warn(
                "stage 2 starts from weights that stage 1 never trained: train in stage 1 first, or load such weights",
                UntrainedStage, stacklevel=3,
            )  # fmt: skip
        self._stage = stage

    @property
    def effective_weight(self) -> Tensor:
        """The weight that the products use, before the scale."""
        if self.stage == 1:
            return torch.sin(self.frequency * self.weight)
        return square_wave(self.weight, self.frequency)

    def _signs(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            deviation = x.flatten(1).std(1) if x.dim() > 1 else x.std()[None]
            if not bool((deviation > 0).all()):
                raise ValueError(
                    f"the activations of sample {int((~(deviation > 0)).nonzero()[0])} do not vary, so that nothing "
                    "is left of them but one sign: normalize before the layer"
                )
            if self.stage == 1:
                self.seen += 1
            # a positive factor leaves the signs alone: it only widens where gradients pass
            x = x / deviation.detach().view(-1, *[1] * (x.dim() - 1)) if x.dim() > 1 else x / deviation.detach()
        return binary_sign(x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, frequency={self.frequency:g}, stage={self.stage}"


class BiPerLinear(_BiPer, nn.Linear):
    r"""\(y = \alpha \odot (W_b\, \mathrm{sign}(x)) + b\), \(W_b = \sin \omega W\) (stage 1) or its signs (stage 2).

    While training, activations are divided by each sample's deviation, so that gradients pass through most of them.

    Args:
        in_features, out_features, bias: as of `torch.nn.Linear`.
        frequency: ω.
        stage: 1 or 2; set ``layer.stage = 2`` after the first stage's training.

    Raises:
        ValueError: a frequency that is not positive, another stage, or (training) a sample whose activations are
            all the same.

    Warns:
        UntrainedStage: stage 2 without training in stage 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, frequency: float | int = 20.0, stage: int = 1
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self._prepare(frequency, stage)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        y = F.linear(self._signs(x), self.effective_weight) * self.scale
        return y if self.bias is None else y + self.bias

    def packed(self) -> PackedLinear:
        """The layer for inference, one bit a weight, whichever the stage."""
        weight = square_wave(self.weight.detach(), self.frequency)
        return PackedLinear(pack_signs(weight), self.scale.detach(), _copied(self.bias), self.in_features)


class BiPerConv2d(_BiPer, nn.Conv2d):
    """The same for images: a convolution of signs by signs; what it pads counts as 0.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as of `torch.nn.Conv2d`.
        frequency, stage: as `BiPerLinear`, which also says what it raises.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
        bias: bool = True, *, frequency: float | int = 20.0, stage: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self._prepare(frequency, stage)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        y = F.conv2d(self._signs(x), self.effective_weight, None, self.stride, self.padding)
        y = y * self.scale[:, None, None]
        return y if self.bias is None else y + self.bias[:, None, None]

    def packed(self) -> PackedConv2d:
        """The layer for inference, one bit a weight, whichever the stage."""
        weight = square_wave(self.weight.detach(), self.frequency)
        rows = PackedLinear(pack_signs(weight.flatten(1)), self.scale.detach(), _copied(self.bias), weight[0].numel())
        return PackedConv2d(rows, self.kernel_size[0], self.stride[0], int(self.padding[0]))


def _copied(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()


class PackedLinear(nn.Module):
    """A linear layer of one bit a weight, by XNOR and counting bits; for inference.

    Args:
        words: signs as packed by `pack_signs`.
        scale: a factor an output.
        bias: or None.
        in_features: how many of the bits are weights.
    """

    words: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, words: Tensor, scale: Tensor, bias: Tensor | None, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.register_buffer("words", words)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("bias", bias)

    @property
    def nbytes(self) -> int:
        """What the signs take."""
        return self.words.nbytes

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        signs = _signs(x.reshape(-1, x.shape[-1]))
        return self.of_signs(signs).view(*x.shape[:-1], -1)

    def of_signs(self, signs: Float[Tensor, "rows inputs"]) -> Float[Tensor, "rows outputs"]:
        """The layer on signs, of which 0 is left out."""
        y = sign_matmul(signs, self.words).to(self.scale.dtype) * self.scale
        return y if self.bias is None else y + self.bias


class PackedConv2d(nn.Module):
    """A convolution of one bit a weight: patches of signs, multiplied as rows by a `PackedLinear`."""

    def __init__(self, rows: PackedLinear, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.rows, self.kernel_size, self.stride, self.padding = rows, kernel_size, stride, padding

    @property
    def nbytes(self) -> int:
        """What the signs take."""
        return self.rows.nbytes

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs new_height new_width"]:
        height, width = ((n + 2 * self.padding - self.kernel_size) // self.stride + 1 for n in x.shape[-2:])
        patches = F.unfold(_signs(x), self.kernel_size, padding=self.padding, stride=self.stride).mT
        y = self.rows.of_signs(patches.reshape(-1, patches.shape[-1]))
        return y.view(len(x), height * width, -1).mT.contiguous().view(len(x), -1, height, width)


def set_stage(model: nn.Module, stage: int) -> int:
    """Put every BiPer layer of a model in a stage; returns how many there are.

    Raises:
        ValueError: the model has none, or another stage than 1 or 2.
    """
    layers = [m for m in model.modules() if isinstance(m, _BiPer)]
    if not layers:
        raise ValueError("the model has no BiPer layer")
    for layer in layers:
        layer.stage = stage
    return len(layers)
