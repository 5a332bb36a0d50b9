r"""Layers that run on integers whose scales are fixed before: calibrate once, then no range is ever looked for.

A `QuantPoint` stands where activations become integers. It first watches a calibration, then rounds to its grid
\(s\,\{-127, …, 127\}\). The layers here take activations on such a grid and multiply codes, exactly, in int32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor, nn

from gramian.linalg.factor.quant import absmax, symmetric
from gramian.linalg.factor.quant.observers import Observer

__all__ = ["QuantPoint", "StaticConvolution", "StaticLinear", "simulate"]


class QuantPoint(nn.Module):
    """Rounds to a grid of integers times a scale that a calibration fixed.

    Args:
        observer: finds the scale: one for all, or one for each feature (the last axis).
        bits: of the integers.

    Until `freeze`, it must be `calibrating`, and lets everything pass as it is.
    """

    scale: Tensor | None

    def __init__(self, observer: Observer, bits: int = 8) -> None:
        super().__init__()
        symmetric.largest_code(bits)
        self.observer, self.bits, self.calibrating = observer, bits, False
        self.register_buffer("scale", None)

    def freeze(self) -> None:
        """Fix the scale.

        Raises:
            ValueError: nothing was seen.
        """
        self.scale, self.calibrating = self.observer.scale(self.bits), False

    def forward(self, x: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
        """X on the grid.

        Raises:
            ValueError: no scale yet, or NaN or infinity.
        """
        if self.scale is None:
            if not self.calibrating:
                raise ValueError("this activation has no scale: calibrate the network, then freeze it")
            self.observer.update(x)
            return x
        return symmetric.to_codes(x, self.scale, self.bits).to(x.dtype) * self.scale.to(x.dtype)

    def store(self, x: Float[Tensor, "*batch features"]) -> Tensor:
        """Codes, to keep between calls; x itself while there is no scale."""
        return x if self.scale is None else symmetric.to_codes(x, self.scale, self.bits)

    def load(self, kept: Tensor) -> Tensor:
        """What `store` kept, as floats."""
        return kept if self.scale is None or kept.is_floating_point() else kept.to(self.scale.dtype) * self.scale


class StaticLinear(nn.Module):
    r"""\(y = s_x\, (q_x \, (s_w q_w)^T) + b\): a linear layer on codes, or on floats with a quantized weight.

    Args:
        codes: of the weight, as `gramian.linalg.factor.quant.symmetric.quantize_matrix` or `gptq` makes them.
        scales: of the weight, (1, 1) or (outputs, groups).
        bits: of the codes, which are packed so.
        group: inputs that share a scale in a row; None where there is one scale.
        bias: as of `torch.nn.Linear`.
        input_scale: the scale of the grid on which inputs lie; None: inputs are any floats, and the weight is
            dequantized.

    With `simulated` the product is one of floats, as in studies of quantization; it is the same up to rounding.

    Raises:
        ValueError: scales that do not fit.
    """

    packed: Tensor
    scales: Tensor
    bias: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self,
        codes: Int8[Tensor, "outputs inputs"],
        scales: Float[Tensor, "scale_rows groups"],
        bits: int = 8,
        group: int | None = None,
        bias: Float[Tensor, " outputs"] | None = None,
        input_scale: Float[Tensor, ""] | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape
        groups = 1 if group is None else -(-self.in_features // group)
        if tuple(scales.shape) != ((1, 1) if group is None else (self.out_features, groups)):
            raise ValueError(f"scales of {tuple(scales.shape)} for {tuple(codes.shape)} codes in groups of {group}")
        self.bits, self.group, self.simulated = bits, group, False
        self.register_buffer("packed", codes if bits == 8 else symmetric.pack_codes(codes, bits))
        self.register_buffer("scales", scales)
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def codes(self) -> Int8[Tensor, "outputs inputs"]:
        """The weight's codes."""
        if self.bits == 8:
            return self.packed
        return symmetric.unpack_codes(self.packed, self.bits, (self.out_features, self.in_features))

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """What the codes stand for."""
        return self.codes.to(self.scales.dtype) * symmetric.spread_scales(self.scales, self.in_features, self.group)

    @property
    def nbytes(self) -> int:
        """The codes' bytes, and the scales' in 16 bits."""
        return self.packed.nbytes + 2 * self.scales.numel()

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        if self.input_scale is None or self.simulated:
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        rows = symmetric.to_codes(x.reshape(-1, self.in_features), self.input_scale)
        width = self.group or self.in_features
        total = x.new_zeros(len(rows), self.out_features)
        pairs = zip(rows.split(width, 1), self.codes.split(width, 1), self.scales.unbind(1), strict=True)
        for inputs, codes, scale in pairs:
            product = absmax.int8_matmul(inputs.contiguous(), codes.contiguous())
            total = total + product.to(x.dtype) * (self.input_scale * scale).to(x.dtype)
        total = total if self.bias is None else total + self.bias.to(x.dtype)
        return total.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        inputs = "floats" if self.input_scale is None else "int8"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, inputs={inputs}"


class StaticConvolution(nn.Module):
    """A short causal convolution of each channel by itself, on codes; as `gramian.nn.state.convolution`.

    Args:
        weight: (channels, 1, taps), rounded to int8 with one scale for each run of channels.
        bias: kept as floats.
        input_scale: of the grid of the inputs: one, or one for each channel.
        part_of: the run of each channel; None: all are one.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    input_scale: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "channels 1 taps"],
        bias: Float[Tensor, " channels"] | None,
        input_scale: Float[Tensor, "..."],
        part_of: Tensor | None = None,
    ) -> None:
        super().__init__()
        largest = weight.detach().abs().amax((1, 2))
        if part_of is None:
            part_of = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
        parts = largest.new_zeros(int(part_of.max()) + 1).scatter_reduce_(0, part_of, largest, "amax")
        scales = symmetric.to_scale(parts)[part_of]
        self.simulated = False
        self.register_buffer("codes", symmetric.to_codes(weight.detach(), scales[:, None, None]))
        self.register_buffer("scales", scales)
        self.register_buffer("input_scale", input_scale.expand(len(weight)).clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def nbytes(self) -> int:
        """Codes; the few scales and biases in 16 bits."""
        return self.codes.nbytes + 2 * self.scales.unique().numel() + (0 if self.bias is None else 2 * len(self.bias))

    def initial_state(self, batch: int) -> Float[Tensor, "batch channels carried"]:
        """Zeros: the inputs before the first."""
        return self.scales.new_zeros(batch, len(self.codes), self.codes.shape[-1] - 1)

    def forward(
        self,
        x: Float[Tensor, "batch channels length"],
        state: Float[Tensor, "batch channels carried"],
        silu: bool = False,
    ) -> tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch channels carried"]]:
        """Outputs, through SiLU if asked, and the last inputs to go on from."""
        padded = torch.cat((state.to(x.dtype), x), -1)
        carried = padded[..., padded.shape[-1] - state.shape[-1] :]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.simulated:
            weight = self.codes.to(x.dtype) * self.scales.to(x.dtype)[:, None, None]
            y = F.conv1d(padded, weight, groups=len(weight))
        else:
            # sums of a few products of codes are whole numbers far below 2^24: floats hold them exactly
            codes = symmetric.to_codes(padded, self.input_scale[:, None]).to(x.dtype)
            sums = F.conv1d(codes, self.codes.to(x.dtype), groups=len(self.codes))
            y = sums * (self.input_scale * self.scales).to(x.dtype)[:, None]
        y = y if bias is None else y + bias[:, None]
        return (F.silu(y) if silu else y), carried


def simulate(model: nn.Module, simulated: bool = True) -> None:
    """Let every layer here multiply floats on the grids instead of codes, or codes again."""
    _each(model, lambda layer: setattr(layer, "simulated", simulated))


def _each(model: nn.Module, action: Callable[[nn.Module], None]) -> None:
    for layer in model.modules():
        if isinstance(layer, (StaticLinear, StaticConvolution)):
            action(layer)
