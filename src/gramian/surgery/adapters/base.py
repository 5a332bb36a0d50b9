"""What all adapters share: a frozen layer, a trainable change of its weight, merging and taking it apart."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Adapter", "check_base", "fresh_generator"]


class Adapter(nn.Module, ABC):
    r"""A layer \(y = f(x; W) + g(x)\), where the adapter's branch g is what a change ΔW of the weight would add.

    The base layer is held, never written to: a tied weight stays tied and `unmerge` gives back the very bits.
    The branch works in float32 at least and its result has the base's dtype.

    Attributes:
        base: the layer that is adapted, with its weight W and bias as they were.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        check_base(base)
        self.base = base
        self.register_buffer("_merged", None, persistent=False)

    @abstractmethod
    def delta(self) -> Float[Tensor, "*shape"]:
        """ΔW, of the shape of the base's weight and in the adapter's dtype."""

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """What the change of the weight adds to the base layer's output."""

    @abstractmethod
    def own(self) -> dict[str, nn.Parameter]:
        """The adapter's own parameters by name, trained or frozen."""

    def trained(self) -> dict[str, nn.Parameter]:
        """Those of its own parameters that training changes."""
        return self.own()

    @property
    def weight(self) -> Tensor:
        """The weight as it acts: W + ΔW, in the base's dtype."""
        return (self.base.weight + self.delta().to(torch.promote_types(self.base.weight.dtype, torch.float32))).to(
            self.base.weight.dtype
        )

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def is_merged(self) -> bool:
        return self._merged is not None

    def merge(self) -> None:
        """Run with one plain weight W + ΔW from now on, as fast as the base alone; not trainable meanwhile."""
        self._merged = self.weight.detach()

    def unmerge(self) -> None:
        """Run with the base and the branch again; the base's weight was never touched."""
        self._merged = None

    def merged(self) -> nn.Module:
        """A plain layer of the base's type whose weight is W + ΔW."""
        weight, needs_grad = self.weight.detach(), self.base.weight.requires_grad
        # the base's weight may be shared with other layers: the copy must not be
        plain = copy.deepcopy(self.base)
        plain.weight = nn.Parameter(weight.clone(), requires_grad=needs_grad)
        return plain

    def forward(self, x: Tensor) -> Tensor:
        if self._merged is not None:
            return torch.func.functional_call(self.base, {"weight": self._merged}, (x,))
        y = self.base(x)
        return y + self.branch(x).to(y.dtype)


def check_base(layer: nn.Module) -> None:
    """Refuse what no adapter can stand on.

    Raises:
        TypeError: a layer without a weight, or with weights that are not floating point (a quantized layer).
        ValueError: weights on the meta device, or with NaN or infinity.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise TypeError(f"an adapter stands beside a layer with a weight, not beside a {type(layer).__name__}")
    if weight.is_meta:
        raise ValueError(f"the {type(layer).__name__}'s weight is on the meta device: load the model's values first")
    if not weight.is_floating_point():
        raise TypeError(f"the weight is {weight.dtype}: dequantize the layer first, an adapter adds to real numbers")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(f"the {type(layer).__name__}'s weight holds NaN or infinity")


def fresh_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or a new one with seed 0."""
    return torch.Generator().manual_seed(0) if generator is None else generator
