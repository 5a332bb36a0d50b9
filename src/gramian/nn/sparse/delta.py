r"""Layers for sequences of frames that change little: quantized activations, and what changed between frames."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.gathered import summed_product

__all__ = ["DeltaActivation", "DeltaConv2d", "DeltaLinear", "PerFrame"]

LEVELS = ("layer", "channel", "neuron")


class _Quantize(torch.autograd.Function):
    """q round(x / q), q = |threshold|; x passes straight through, q is stopped in the division, negated outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor) -> Tensor:
        steps = torch.round(x / threshold.abs())
        ctx.save_for_backward(steps, threshold)
        return steps * threshold.abs()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        steps, threshold = ctx.saved_tensors
        return gradients[0], -(gradients[0] * steps).sum_to_size(threshold.shape) * threshold.sign()


class DeltaActivation(nn.Module):
    r"""Quantizes activations to \(z = q\,\mathrm{round}(x / q)\) and counts what changes from frame to frame.

    With \(d_t = z_t - z_{t-1}\), \(d_0 = z_0\), the layer after it needs only the entries of d that are not zero.
    `penalty` is to be added to the loss: it makes changes fewer by growing q.

    Gradients are the layer's own: x gets the output's gradient g, q gets \(-\sum g\,\mathrm{round}(x / q)\).

    Args:
        shape: of a frame's activations, such as (channels, height, width).
        level: "layer", "channel" or "neuron": what has a q of its own.
        init: q at the start.
        rate: weight of the penalty.
        fan_out: products that one changed entry costs in the next layer.

    Raises:
        ValueError: an unknown level, init 0 or NaN, a negative rate, activations without a time axis or of another
            shape, a q that has become 0.

    Source: Yousefzadeh and Sifalakis, Training for temporal sparsity in deep neural networks (2021).
    """

    def __init__(
        self, shape: tuple[int, ...], level: str = "channel", init: float | int = 0.1, rate: float | int = 0.0,
        fan_out: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"level={level!r} is not one of {', '.join(LEVELS)}")
        if not abs(init) > 0 or not rate >= 0:
            raise ValueError(f"init={init} must not be 0 (a step of no width), rate={rate} not negative")
        sizes = {"layer": (1,) * len(shape), "channel": (shape[0],) + (1,) * (len(shape) - 1), "neuron": shape}
        self.shape, self.level, self.rate, self.fan_out = tuple(shape), level, float(rate), fan_out
        self.threshold = nn.Parameter(torch.full(sizes[level], float(init)))
        self.penalty: Tensor | None = None
        self.counts = torch.zeros(2, dtype=torch.long)

    @property
    def density(self) -> float:
        """The share of deltas in the last call that are not zero; the first frame counts whole."""
        if not int(self.counts[1]):
            raise ValueError("the layer has not been called yet")
        return float(self.counts[0]) / float(self.counts[1])

    def quantize(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Z of frames whose last axes are the layer's shape."""
        if not bool((self.threshold != 0).all()):
            raise ValueError("a threshold is 0: there is no step to round to; lower the learning rate or the decay")
        return _Quantize.apply(x, self.threshold)

    def forward(self, x: Float[Tensor, "batch time *shape"]) -> Float[Tensor, "batch time *shape"]:
        if x.dim() != len(self.shape) + 2 or tuple(x.shape[2:]) != self.shape:
            raise ValueError(f"activations {tuple(x.shape)} are not (batch, time, {', '.join(map(str, self.shape))})")
        z = self.quantize(x)
        changes = z[:, 1:] - z[:, :-1]
        nonzero = changes.detach().count_nonzero() + z[:, 0].detach().count_nonzero()
        self.counts = torch.stack([nonzero.cpu(), torch.tensor(z.numel())])
        mean = changes.abs().mean() if changes.numel() else z.new_zeros(())
        self.penalty = self.rate * self.fan_out * mean
        return z

    def extra_repr(self) -> str:
        return f"{self.shape}, level={self.level}, rate={self.rate:g}, fan_out={self.fan_out}"


class PerFrame(nn.Module):
    """Applies a module to every frame of (batch, time, …)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Float[Tensor, "batch time ..."]) -> Float[Tensor, "batch time ..."]:
        if x.dim() < 3:
            raise ValueError(f"{tuple(x.shape)} has no time axis: (batch, time, …) is needed")
        y = self.module(x.flatten(0, 1))
        return y.view(*x.shape[:2], *y.shape[1:])


class _Accumulator(nn.Module):
    """y ← y + W d, with the bias in the first frame only."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.reset()

    def reset(self) -> None:
        """Forget the frames so far."""
        self.state: Tensor | None = None
        self.macs = 0

    @property
    def nbytes(self) -> int:
        """What the state takes."""
        return 0 if self.state is None else self.state.nbytes

    def forward(self, delta: Tensor) -> Tensor:
        y, macs = self._products(delta)
        self.macs += macs
        if self.state is None:
            bias = self.layer.bias
            if bias is not None:
                y = y + bias.view(-1, *[1] * (y.dim() - 2))
            self.state = y
        else:
            self.state = self.state + y
        return self.state

    def _products(self, delta: Tensor) -> tuple[Tensor, int]:
        raise NotImplementedError


class DeltaLinear(_Accumulator):
    """A linear layer over time, fed with changes; for a single stream it reads only the columns that changed."""

    def _products(self, delta: Tensor) -> tuple[Tensor, int]:
        weight = self.layer.weight
        macs = int(delta.count_nonzero()) * len(weight)
        if len(delta) == 1 and delta.dim() == 2 and not torch.is_grad_enabled():
            return summed_product(delta[0], weight.detach().mT.contiguous())[None], macs
        return F.linear(delta, weight), macs


class DeltaConv2d(_Accumulator):
    """A convolution over time, fed with changes; it counts the products that changed entries ask for."""

    def _products(self, delta: Tensor) -> tuple[Tensor, int]:
        layer = self.layer
        where = (layer.stride, layer.padding, layer.dilation)
        ones = torch.ones(1, 1, *layer.kernel_size, dtype=delta.dtype, device=delta.device)
        # each output position multiplies the changed entries under its kernel, once an output channel
        touched = F.conv2d((delta != 0).to(delta.dtype).sum(1, keepdim=True), ones, None, *where)
        return F.conv2d(delta, layer.weight, None, *where), int(touched.double().sum()) * len(layer.weight)
