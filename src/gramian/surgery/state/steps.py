"""See, and veto, the step sizes of Mamba and Mamba-2 layers while a model runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.nn.state.mamba import Mamba
from gramian.nn.state.mamba2 import Mamba2
from gramian.surgery.swap import Handle, swap

__all__ = ["WatchedMamba", "WatchedMamba2", "rates", "watch"]

Watch = Callable[[Float[Tensor, "batch length channels"], bool], Bool[Tensor, "batch length channels"] | None]
"""Step sizes of a piece of a sequence, and whether it begins here → which of them stay (None: all)."""


class WatchedMamba(Mamba):
    """A Mamba layer whose step sizes pass a `Watch`; where it vetoes one, the channel's state skips the token."""

    watch: Watch
    fresh: bool

    def forward(self, x, state=None):
        """As `Mamba.forward`."""
        self.fresh = state is None
        return super().forward(x, state)

    def step(self, x, state=None):
        """As `Mamba.step`."""
        self.fresh = state is None
        return super().step(x, state)

    def _coefficients(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt, B, C = super()._coefficients(x)
        pieces = dt if dt.dim() == 3 else dt[:, None]
        keep = self.watch(F.softplus(pieces + self.dt_proj.bias), self.fresh)
        if keep is not None:  # softplus(−∞) = 0: no decay, nothing written
            dt = dt.masked_fill(~keep.view_as(dt), -torch.inf)
        return dt, B, C


class WatchedMamba2(Mamba2):
    """The same of Mamba-2, one step size a head."""

    watch: Watch
    fresh: bool

    def forward(self, x, state=None):
        """As `Mamba2.forward`."""
        self.fresh = state is None
        return super().forward(x, state)

    def step(self, x, state=None):
        """As `Mamba2.step`."""
        self.fresh = state is None
        return super().step(x, state)

    def step_sizes(self, dt: Float[Tensor, "batch length heads"]) -> Float[Tensor, "batch length heads"]:
        """Step sizes, zero where the watch vetoes them."""
        dt = super().step_sizes(dt)
        keep = self.watch(dt, self.fresh)
        return dt if keep is None else dt.masked_fill(~keep, 0.0)


def watch(model: nn.Module, make: Callable[[str, nn.Module], Watch], layers: str | Iterable[str] = "*") -> Handle:
    """Put a watch into every Mamba and Mamba-2 layer that matches; the layers keep their own parameters.

    Args:
        make: (name, layer) → its watch.
        layers: patterns of names.

    Returns:
        a handle whose ``undo()`` takes the watches out.

    Raises:
        ValueError: the model has no such layer.
    """

    def factory(name: str, layer: nn.Module) -> nn.Module:
        kind = WatchedMamba if isinstance(layer, Mamba) else WatchedMamba2
        new = copy.copy(layer)
        for part in ("_parameters", "_buffers", "_modules"):  # the same tensors in dictionaries of its own
            new.__dict__[part] = dict(layer.__dict__[part])
        new.__class__ = kind
        new.watch, new.fresh = make(name, layer), True
        return new

    return swap(model, layers, factory, (Mamba, Mamba2))


def rates(layer: nn.Module) -> Float[Tensor, "channels states"]:
    """−A of a layer: a row a channel (Mamba), or a row of one a head (Mamba-2)."""
    A = torch.exp(layer.A_log.detach().double())
    return A if A.dim() == 2 else A[:, None]
