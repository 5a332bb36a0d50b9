"""A stack of residual sequence layers, pooled over time, that classifies series."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.nn.state import S4, S4D, S5, DeltaNet, GatedLinearAttention, Mamba, Mixing
from gramian.nn.state.companion import Companion
from gramian.nn.state.lion import LION
from gramian.nn.state.mamba2 import Mamba2


class Plain(nn.Module):
    """A layer of `gramian.nn.state` that knows no `need_state`, called as the stack calls its layers.

    Args:
        layer: its call gives outputs, or outputs and a state.
        mixing: follows the layer where it has no nonlinearity of its own.
        causal: whether no output depends on a later input.
    """

    def __init__(self, layer: nn.Module, mixing: nn.Module | None = None, causal: bool = True) -> None:
        super().__init__()
        self.layer, self.mixing, self.causal = layer, mixing, causal

    def forward(self, x: Float[Tensor, "batch length channels"], need_state: bool = True) -> tuple[Tensor, Any]:
        found = self.layer(x)
        y, state = found if isinstance(found, tuple) else (found, None)
        return y if self.mixing is None else self.mixing(y), state if need_state else None


def heads_of(channels: int, key_size: int) -> int:
    """The fewest heads that divide the channels and leave each at most `key_size` of them.

    >>> heads_of(32, 16), heads_of(12, 5), heads_of(4, 16)
    (2, 3, 1)
    """
    if min(channels, key_size) < 1:
        raise ValueError(f"channels={channels} and state_size={key_size} must be at least 1")
    return next(n for n in range(-(-channels // key_size), channels + 1) if channels % n == 0)


def _mamba2(channels: int, state_size: int, **options: Any) -> nn.Module:
    return Plain(Mamba2(channels, state_size, **{"head_size": math.gcd(2 * channels, 16)} | options))


def _gla(channels: int, state_size: int, **options: Any) -> nn.Module:
    if channels % 2:
        raise ValueError(f"channels={channels}: keys have half as many, so the number must be even")
    heads = heads_of(channels // 2, state_size)
    return Plain(GatedLinearAttention(channels, **{"num_heads": heads, "conv_width": 4} | options))


def _delta_net(channels: int, state_size: int, **options: Any) -> nn.Module:
    return Plain(DeltaNet(channels, **{"num_heads": heads_of(channels, state_size)} | options))


def _lion(channels: int, state_size: int, generator: torch.Generator | None = None, **options: Any) -> nn.Module:
    layer = LION(channels, **{"num_heads": heads_of(channels, state_size)} | options, generator=generator)
    return Plain(layer, Mixing(channels, generator=generator), causal=False)


def _companion(channels: int, state_size: int, generator: torch.Generator | None = None, **options: Any) -> nn.Module:
    return Plain(Companion(channels, state_size, **options, generator=generator), Mixing(channels, generator=generator))


# Where a layer's state is a matrix a head, `state_size` bounds the keys of a head and so sets the number of heads.
# LION and the companion system are linear maps of their values: GELU and a gated map of the channels follow them, as
# they follow S4D and S5 inside those layers.
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "s4": S4,
    "s4d": S4D,
    "s5-ptd": lambda channels, **options: S5(channels, **{"init": "ptd"} | options),
    "s5-legs": lambda channels, **options: S5(channels, **{"init": "legs"} | options),
    "companion": _companion,
    "mamba": lambda channels, **options: Plain(Mamba(channels, **options)),
    "mamba2": _mamba2,
    "gla": _gla,
    "deltanet": _delta_net,
    "lion": _lion,
}
STEPPED = ("s4", "s4d", "s5-ptd", "s5-legs", "mamba", "mamba2")
"""Layers that sample a continuous system, and so have a range of steps `dt_range`."""
POOLINGS = ("mean", "last")


class SequenceClassifier(nn.Module):
    """encoder → depth × (x + dropout(layer(norm(x)))) → norm → pooling over time → linear head.

    Args:
        in_channels: channels of the series.
        classes: number of logits.
        channels: width of the stack.
        depth: number of residual layers.
        layer: one of `LAYERS` (``s4``, ``s4d``, ``s5-ptd``, ``s5-legs``, ``companion``, ``mamba``, ``mamba2``,
            ``gla``, ``deltanet``, ``lion``), or a function ``layer(channels, generator=…, **layer_options)`` that makes
            a module whose call (x, need_state=False) returns (y, state).
        layer_options: further arguments of every layer, such as ``{"state_size": 32, "init": "inv"}``.
        pooling: ``mean`` over the valid steps, or the ``last`` valid step.
        dropout: on every residual branch.
        generator: source of the random start.

    Raises:
        ValueError: an unknown layer or pooling, or a size below 1.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: int = 64,
        depth: int = 2,
        layer: str | Callable[..., nn.Module] = "s4d",
        layer_options: dict[str, Any] | None = None,
        pooling: str = "mean",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, classes, channels, depth) < 1:
            raise ValueError(f"{in_channels=}, {classes=}, {channels=} and {depth=} must all be at least 1")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
        if isinstance(layer, str):
            if layer not in LAYERS:
                raise ValueError(f"layer={layer!r} is unknown; choose one of {', '.join(LAYERS)}")
            layer = LAYERS[layer]
        self.pooling = pooling
        self.encoder = _linear(in_channels, channels, generator)
        options = layer_options or {}
        self.layers = nn.ModuleList(layer(channels, generator=generator, **options) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.final_norm = nn.LayerNorm(channels)
        self.head = _linear(channels, classes, generator)

    def forward(
        self, x: Float[Tensor, "batch length in_channels"], valid: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Args:
            valid: which steps are data; the padding stands at the end of a series. A causal layer cannot carry
                what is padded to what is not; one that is not (its attribute ``causal`` is False) never sees it.

        Raises:
            ValueError: a series without a valid step, or padding that does not stand at the end.
        """
        if valid is not None:
            if not bool(valid[:, 0].all()):
                raise ValueError("every series needs at least one step, and its padding must stand at the end")
            if bool((valid[:, 1:] & ~valid[:, :-1]).any()):
                raise ValueError("padding must stand at the end of a series, not before or between its steps")
            x = x.masked_fill(~valid[..., None], 0.0)  # a NaN in the padding would reach everything through the FFT
        x = self.encoder(x)
        for norm, layer in zip(self.norms, self.layers):
            x = x + self.dropout(self._outputs(layer, norm(x), valid))
        return self.head(self._pool(self.final_norm(x), valid))

    @staticmethod
    def _outputs(layer: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
        """The layer's outputs; one that looks ahead reads the series of each length by themselves, unpadded."""
        if valid is None or getattr(layer, "causal", True):
            return layer(x, need_state=False)[0]
        lengths, y = valid.sum(1), torch.zeros_like(x)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            y[rows, :length] = layer(x[rows, :length], need_state=False)[0]
        return y

    def _pool(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return x.mean(1) if self.pooling == "mean" else x[:, -1]
        lengths = valid.sum(1)
        if self.pooling == "last":
            return x[torch.arange(len(x), device=x.device), lengths - 1]
        return (x * valid[..., None]).sum(1) / lengths[:, None]


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear map whose start comes from `generator`."""
    linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear
