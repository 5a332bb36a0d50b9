r"""A Mamba-2 block with integer weights and activations, one scale for channels that are alike (Quamba2)."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.factor.quant import symmetric
from gramian.linalg.factor.quant.gptq import gptq
from gramian.linalg.factor.quant.observers import LargestMagnitude
from gramian.linalg.signal.paley import hadamard_transform, split_size
from gramian.nn.quantized.static import QuantPoint, StaticConvolution, StaticLinear
from gramian.nn.state.mamba2 import Mamba2, Mamba2State

__all__ = ["WEIGHT_BITS", "QuantHead", "QuantMamba2", "quantized_linear"]

WEIGHT_BITS = (4, 8, 16)
GROUP = 128
"""Inputs of a row of a 4-bit weight that share a scale."""


class QuantMamba2(Mamba2):
    """`gramian.nn.state.mamba2.Mamba2` in few bits; build it with `prepare`, calibrate, then `freeze`.

    With 8-bit activations, integers are: the block's input, the gate z, what enters the convolution (a scale for x, B
    and C each), x behind it (a scale for each cluster of channels), B and C (a scale for each SSD group), the step
    sizes, the matrix states between calls (a scale for each cluster and state dimension), and the gated, normed
    output, turned by a Hadamard matrix. With 16 bits they stay as they are.

    The convolution's inputs and the matrix states that are carried between calls are int8 too, so that single steps
    round the states at every token, and a text read at once only at its end.

    Source: Chiang et al., "Quamba2", 2025, section 4.
    """

    points: nn.ModuleDict
    grams: dict[str, Tensor]
    weight_bits: int
    activation_bits: int
    hadamard: bool
    use_gptq: bool
    keep_state: bool

    @classmethod
    def prepare(
        cls,
        layer: Mamba2,
        weight_bits: int,
        activation_bits: int,
        scale_of: Int[Tensor, " inner"] | None = None,
        hadamard: bool = True,
        use_gptq: bool = True,
        keep_state: bool = False,
    ) -> QuantMamba2:
        """The float layer with points that watch a calibration.

        Args:
            weight_bits: 4 (in groups of 128, by GPTQ), 8 (one scale) or 16 (as they are).
            activation_bits: 8 or 16.
            scale_of: which scale each channel of x takes; None: x, B and C have one scale each.
            hadamard: whether the output is turned.
            use_gptq: whether 4-bit weights take the inputs into account.
            keep_state: leave the matrix states between calls as they are.

        Raises:
            ValueError: other bits, or inner channels without a Hadamard matrix.
        """
        if weight_bits not in WEIGHT_BITS or activation_bits not in (8, 16):
            raise ValueError(f"W{weight_bits}A{activation_bits}: weights take 4, 8 or 16 bits, activations 8 or 16")
        if hadamard:
            split_size(layer.inner)
        new = copy.deepcopy(layer)
        new.__class__ = cls
        assert isinstance(new, QuantMamba2)
        new.weight_bits, new.activation_bits, new.hadamard = weight_bits, activation_bits, hadamard
        new.use_gptq, new.keep_state, new.grams = use_gptq, keep_state, {}
        device = layer.D.device
        shared = layer.num_groups * layer.state_size
        parts = torch.arange(3, device=device).repeat_interleave(torch.tensor([layer.inner, shared, shared]).to(device))
        observers = {name: LargestMagnitude() for name in ("input", "z", "dt", "y")}
        observers["mixed"] = LargestMagnitude(parts)
        grouped = torch.arange(layer.num_groups, device=device).repeat_interleave(layer.state_size)
        for name in ("B", "C"):
            observers[name] = LargestMagnitude(None if scale_of is None else grouped)
        observers["x"] = LargestMagnitude(scale_of)
        if not keep_state:
            cluster = torch.zeros(layer.inner, dtype=torch.long, device=device) if scale_of is None else scale_of
            cluster = cluster.view(layer.num_heads, 1, layer.head_size)
            dimension = torch.arange(layer.state_size, device=device)[:, None]
            observers["state"] = LargestMagnitude((cluster * layer.state_size + dimension).flatten())
        new.points = nn.ModuleDict({name: QuantPoint(o) for name, o in observers.items()})
        for point in new.points.values():
            point.calibrating = True
        if hadamard:
            with torch.no_grad():
                new.out_proj.weight.copy_(hadamard_transform(layer.out_proj.weight))
        return new.requires_grad_(False)

    def freeze(self) -> None:
        """Fix all scales, and round the weights.

        Raises:
            ValueError: no calibration was run.
        """
        if self.activation_bits == 8:
            for name, point in self.points.items():
                try:
                    point.freeze()
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from error
            conv, scale, parts = self.conv1d, self.points["mixed"].scale, self.points["mixed"].observer.group_of
            self.conv1d = StaticConvolution(conv.weight, conv.bias, scale, parts)
        for name, point in (("in_proj", "input"), ("out_proj", "y")):
            scale = self.points[point].scale if self.activation_bits == 8 else None
            gram = self.grams.get(name) if self.use_gptq else None
            setattr(self, name, quantized_linear(getattr(self, name), self.weight_bits, gram, scale, self.use_gptq))
        self.grams = {}

    def initial_state(self, batch: int) -> Mamba2State:
        """Zeros."""
        state = super().initial_state(batch)
        return self._kept(state)

    def forward(
        self, x: Float[Tensor, "batch length channels"], state: Mamba2State | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], Mamba2State]:
        """As `Mamba2.forward`; raises ValueError where the layer was not calibrated, and for NaN."""
        y, after = super().forward(x, self._loaded(self.initial_state(len(x)) if state is None else state))
        return y, self._kept(after)

    def step(
        self, x: Float[Tensor, "batch channels"], state: Mamba2State | None = None
    ) -> tuple[Float[Tensor, "batch channels"], Mamba2State]:
        """As `Mamba2.step`."""
        y, after = super().step(x, self._loaded(self.initial_state(len(x)) if state is None else state))
        return y, self._kept(after)

    def coefficients(self, u, inputs):
        """As `Mamba2.coefficients`, each on its grid."""
        shared = self.num_groups * self.state_size
        u = self._at("input", u)
        self._watch("in_proj", u)
        z, mixed, dt = self.in_proj(u).split((self.inner, self.inner + 2 * shared, self.num_heads), -1)
        z, mixed, dt = self._at("z", z), self._at("mixed", mixed), self._at("dt", dt)
        mixed, inputs = self.conv1d(mixed.mT, inputs, silu=True)
        x, B, C = mixed.mT.split((self.inner, shared, shared), -1)
        x = self._at("x", x).unflatten(-1, (self.num_heads, self.head_size))
        B, C = (self._at(n, t).unflatten(-1, (self.num_groups, self.state_size)) for n, t in (("B", B), ("C", C)))
        return z, x, B, C, self.step_sizes(dt), inputs

    def read(self, y: Float[Tensor, "*batch inner"], z: Float[Tensor, "*batch inner"]) -> Tensor:
        """What leaves the layer: gate, norm, turn, projection."""
        y = self.norm(y, z)
        y = self._at("y", hadamard_transform(y) if self.hadamard else y)
        self._watch("out_proj", y)
        return self.out_proj(y)

    def _at(self, name: str, x: Tensor) -> Tensor:
        return x if self.activation_bits == 16 else self.points[name](x)

    def _watch(self, name: str, x: Tensor) -> None:
        """Add to the Gram matrix of a projection's inputs, while calibrating for GPTQ."""
        if self.use_gptq and self.weight_bits == 4 and isinstance(getattr(self, name), nn.Linear):
            rows = x.detach().flatten(0, -2).double()
            self.grams[name] = self.grams.get(name, 0.0) + rows.mT @ rows

    def _kept(self, state: Mamba2State) -> Mamba2State:
        """A state as it is carried between calls."""
        if self.activation_bits == 16:
            return state
        inputs = self.points["mixed"].store(state.inputs.mT).mT
        if self.keep_state:
            return Mamba2State(inputs, state.memory)
        point, flat = self.points["state"], state.memory.flatten(1)
        if point.scale is None and point.calibrating:
            point(flat)
        return Mamba2State(inputs, point.store(flat).view_as(state.memory))

    def _loaded(self, state: Mamba2State) -> Mamba2State:
        if self.activation_bits == 16:
            return state
        inputs = self.points["mixed"].load(state.inputs.mT).mT
        if self.keep_state:
            return Mamba2State(inputs, state.memory)
        return Mamba2State(inputs, self.points["state"].load(state.memory.flatten(1)).view(state.memory.shape))


class QuantHead(nn.Module):
    """A language model's head in few bits, with a point in front.

    Args:
        head: the float layer.
        weight_bits: 4, 8 or 16.
        activation_bits: 8 or 16.
        use_gptq: whether a 4-bit weight takes the inputs into account.
    """

    def __init__(self, head: nn.Linear, weight_bits: int, activation_bits: int, use_gptq: bool = True) -> None:
        super().__init__()
        self.linear: nn.Module = copy.deepcopy(head)
        self.weight_bits, self.activation_bits, self.use_gptq = weight_bits, activation_bits, use_gptq
        self.point = QuantPoint(LargestMagnitude())
        self.point.calibrating = True
        self.gram: Tensor | None = None
        # a model asks its head in which type it computes
        self.register_buffer("weight", torch.empty(0, dtype=head.weight.dtype, device=head.weight.device))

    def freeze(self) -> None:
        """Fix the scale, and round the weight.

        Raises:
            ValueError: no calibration was run.
        """
        if self.activation_bits == 8:
            self.point.freeze()
        assert isinstance(self.linear, nn.Linear)
        self.linear = quantized_linear(self.linear, self.weight_bits, self.gram, self.point.scale, self.use_gptq)
        self.gram = None

    def forward(self, x: Float[Tensor, "*batch channels"]) -> Float[Tensor, "*batch vocabulary"]:
        if self.activation_bits == 8:
            x = self.point(x)
        if isinstance(self.linear, nn.Linear) and self.use_gptq and self.weight_bits == 4:
            rows = x.detach().flatten(0, -2).double()
            self.gram = rows.mT @ rows + (0.0 if self.gram is None else self.gram)
        return self.linear(x)


def quantized_linear(
    layer: nn.Linear, bits: int, gram: Tensor | None, input_scale: Tensor | None, use_gptq: bool = True
) -> nn.Module:
    """A layer in 4 bits (groups of 128; by GPTQ or to the nearest), 8 bits (one scale), or as it is.

    Raises:
        ValueError: GPTQ without a Gram matrix.
    """
    weight = layer.weight.detach()
    if bits == 16:
        return layer
    if bits == 8:
        codes, scales = symmetric.quantize_matrix(weight)
        return StaticLinear(codes, scales, bias=layer.bias, input_scale=input_scale)
    if use_gptq:
        if gram is None:
            raise ValueError("no inputs were seen: run calibration texts through the network first")
        codes, scales = gptq(weight, gram, bits, GROUP)
    else:
        codes, scales = symmetric.quantize_matrix(weight, bits, GROUP)
    return StaticLinear(codes, scales, bits, GROUP, layer.bias, input_scale)
