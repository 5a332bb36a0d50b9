"""Inference on changes: a network with delta activations, run frame by frame on what changed."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.sparse.delta import DeltaActivation, DeltaConv2d, DeltaLinear, PerFrame

__all__ = ["DeltaStream", "to_delta_inference"]

_FRAMEWISE = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Hardtanh)


class DeltaStream:
    """A network that takes one frame at a time; see `to_delta_inference`.

    Attributes:
        parts: the modules in order.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        self.parts = parts
        self._before: dict[int, Tensor] = {}

    def reset(self) -> None:
        """Start a new sequence."""
        self._before = {}
        for part in self.parts:
            if isinstance(part, DeltaLinear | DeltaConv2d):
                part.reset()

    @property
    def macs(self) -> int:
        """Multiply–accumulates of the layers behind delta activations since the start of the sequence."""
        return sum(p.macs for p in self.parts if isinstance(p, DeltaLinear | DeltaConv2d))

    @property
    def nbytes(self) -> int:
        """What all states take: the frames before, and the accumulated outputs."""
        states = sum(p.nbytes for p in self.parts if isinstance(p, DeltaLinear | DeltaConv2d))
        return states + sum(z.nbytes for z in self._before.values())

    def step(self, frame: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The network's output for the next frame."""
        x = frame
        with torch.no_grad():
            for i, part in enumerate(self.parts):
                if isinstance(part, DeltaActivation):
                    z = part.quantize(x)
                    x = z - self._before[i] if i in self._before else z
                    self._before[i] = z
                elif isinstance(part, nn.Flatten):
                    x = x.flatten(1)
                else:
                    x = part(x)
        return x


def to_delta_inference(model: nn.Sequential) -> DeltaStream:
    """A copy of a network for streams: every linear layer behind a delta activation gets changes and accumulates.

    The non-linearity that follows works on the accumulated output, so that the results are those of the network
    on the whole sequence.

    Args:
        model: of `PerFrame` layers (linear, convolution, flatten), delta activations and elementwise activations.

    Raises:
        ValueError: no delta activation, or something else than flatten or a linear layer or convolution right
            behind one: a batch norm in training mode, whose statistics are those of all frames, a non-linearity.
        TypeError: a part that is none of these.
    """
    parts: list[nn.Module] = []
    changes = False
    for name, part in model.named_children():
        inner = part.module if isinstance(part, PerFrame) else part
        if changes and isinstance(inner, nn.Linear | nn.Conv2d) and getattr(inner, "groups", 1) == 1:
            kind = DeltaLinear if isinstance(inner, nn.Linear) else DeltaConv2d
            parts.append(kind(copy.deepcopy(inner)))
            changes = False
        elif changes and not isinstance(inner, nn.Flatten):
            raise ValueError(
                f"{name}: a {type(inner).__name__} stands between a delta activation and the layer that takes its "
                "changes; move it before the delta activation (and fold a batch norm into the layer)"
            )
        elif isinstance(inner, DeltaActivation):
            parts.append(copy.deepcopy(inner))
            changes = True
        elif isinstance(inner, (nn.Linear, nn.Conv2d, nn.Flatten, *_FRAMEWISE)):
            parts.append(copy.deepcopy(inner))
        else:
            raise TypeError(f"{name}: a {type(inner).__name__} cannot be run frame by frame")
    if changes or not any(isinstance(p, DeltaActivation) for p in parts):
        raise ValueError("the network needs a delta activation with a linear layer or a convolution behind it")
    return DeltaStream(parts)
