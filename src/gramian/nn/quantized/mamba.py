r"""A Mamba block whose activations are int8 with fixed scales (Quamba)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor.quant import symmetric
from gramian.linalg.factor.quant.observers import LargestMagnitude, Percentile
from gramian.linalg.scan import selective
from gramian.linalg.signal.paley import hadamard_transform, split_size
from gramian.nn.quantized.static import QuantPoint, StaticConvolution, StaticLinear
from gramian.nn.state.mamba import EIG_RANGES, Mamba

__all__ = ["QuantMamba", "QuantMambaState"]

POINTS = ("input", "x", "z", "u", "low", "B", "C", "dt", "y")


class QuantMambaState(NamedTuple):
    """What a `QuantMamba` layer carries: the convolution's inputs as codes, the scan's state as floats."""

    inputs: Tensor
    scan: Float[Tensor, "batch inner state"]


class QuantMamba(nn.Module):
    r"""`gramian.nn.state.mamba.Mamba` with int8 activations and weights, one scale a tensor, found in a calibration.

    Integers are: the block's input, both halves of the projection in, the convolution's result u (whose scale is a
    percentile, so that rare large values are cut: everything that the scan remembers passes here), the low-rank and
    the full step sizes, B and C, and the scan's gated output y. The latter has large outliers in a few channels and
    is rotated first, \(\hat y = H y / \sqrt d\), with the rotation undone in the weight of the projection out. A, D,
    the bias of the step sizes and the scan's state stay floats.

    Build it with `prepare`, run a calibration through it, then `freeze`.

    Source: Chiang et al., "Quamba: A Post-Training Quantization Recipe for Selective State Space Models", 2024,
    section 4.
    """

    A_log: Tensor
    D: Tensor
    dt_bias: Tensor

    def __init__(self, layer: Mamba, percentile: float | int | None = 0.9995, hadamard: bool = True) -> None:
        super().__init__()
        if hadamard:
            split_size(layer.inner)
        self.inner, self.dt_rank, self.state_size = layer.inner, layer.dt_rank, layer.state_size
        self.hadamard, self.eig = hadamard, EIG_RANGES[tuple(layer.eig_range)]
        self.points = nn.ModuleDict({name: QuantPoint(LargestMagnitude()) for name in POINTS})
        if percentile is not None:
            self.points["u"] = QuantPoint(Percentile(percentile))
        self.in_proj, self.x_proj, self.out_proj = (
            _linear(p.weight, p.bias) for p in (layer.in_proj, layer.x_proj, layer.out_proj)
        )
        self.dt_proj = _linear(layer.dt_proj.weight, None)
        self.conv1d: nn.Module = layer.conv1d
        for name, value in (("A_log", layer.A_log), ("D", layer.D), ("dt_bias", layer.dt_proj.bias)):
            self.register_buffer(name, value.detach().clone())
        if hadamard:
            with torch.no_grad():
                self.out_proj.weight.copy_(hadamard_transform(layer.out_proj.weight))

    @classmethod
    def prepare(cls, layer: Mamba, percentile: float | int | None = 0.9995, hadamard: bool = True) -> QuantMamba:
        """The float layer with points that watch a calibration.

        Args:
            percentile: of |u|; None takes the largest magnitude.
            hadamard: whether the scan's output is rotated.

        Raises:
            ValueError: a percentile outside (0.5, 1], or inner channels without a Hadamard matrix.
        """
        new = cls(layer, percentile, hadamard)
        for point in new._points().values():
            point.calibrating = True
        return new

    def freeze(self) -> None:
        """Fix all scales, and turn the weights into int8.

        Raises:
            ValueError: no calibration was run.
        """
        points = self._points()
        for name, point in points.items():
            try:
                point.freeze()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        feeds = {"in_proj": "input", "x_proj": "u", "dt_proj": "low", "out_proj": "y"}
        for name, point in feeds.items():
            layer = getattr(self, name)
            codes, scales = symmetric.quantize_matrix(layer.weight.detach())
            setattr(self, name, StaticLinear(codes, scales, bias=layer.bias, input_scale=points[point].scale))
        scale = points["x"].scale
        assert scale is not None
        conv = self.conv1d
        self.conv1d = StaticConvolution(conv.weight, conv.bias, scale)

    def initial_state(self, batch: int) -> QuantMambaState:
        """Zeros."""
        inputs = self.points["x"].store(self.conv1d.initial_state(batch).mT).mT
        return QuantMambaState(inputs, self.D.new_zeros(batch, self.inner, self.state_size))

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: QuantMambaState | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], QuantMambaState]:
        """Outputs, and the state to go on from.

        Raises:
            ValueError: the layer was not calibrated, or NaN or infinity in an activation.
        """
        if state is None:
            state = self.initial_state(x.shape[0])
        p = self.points
        x, z = self.in_proj(p["input"](x)).chunk(2, -1)
        x, z = p["x"](x), p["z"](z)
        x, inputs = self.conv1d(x.mT, p["x"].load(state.inputs.mT).mT, silu=True)
        u = p["u"](x.mT)
        low, B, C = self.x_proj(u).split((self.dt_rank, self.state_size, self.state_size), -1)
        low, B, C = p["low"](low), p["B"](B), p["C"](C)
        dt = p["dt"](self.dt_proj(low))
        y, scanned = selective.selective_scan(
            u.mT, dt.mT, -torch.exp(self.A_log), B.mT, C.mT, self.D, z.mT, self.dt_bias,
            softplus=True, eig=self.eig, state=state.scan, return_state=True,
        )  # fmt: skip
        y = hadamard_transform(y.mT) if self.hadamard else y.mT
        return self.out_proj(p["y"](y)), QuantMambaState(p["x"].store(inputs.mT).mT, scanned)

    def step(
        self, x: Float[Tensor, "batch channels"], state: QuantMambaState | None = None
    ) -> tuple[Float[Tensor, "batch channels"], QuantMambaState]:
        """One element of the sequence."""
        y, state = self(x[:, None], state)
        return y[:, 0], state

    def _points(self) -> dict[str, QuantPoint]:
        return {name: point for name, point in self.points.items() if isinstance(point, QuantPoint)}


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear layer with copies of these."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False)
