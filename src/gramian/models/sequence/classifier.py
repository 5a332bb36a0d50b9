"""A stack of residual state space layers, pooled over time, that classifies series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gramian.nn.state import S4D, S5

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "s4d": S4D,
    "s5-ptd": lambda channels, **options: S5(channels, **{"init": "ptd"} | options),
    "s5-legs": lambda channels, **options: S5(channels, **{"init": "legs"} | options),
}
POOLINGS = ("mean", "last")


class SequenceClassifier(nn.Module):
    """encoder → depth × (x + dropout(layer(norm(x)))) → norm → pooling over time → linear head.

    Args:
        in_channels: channels of the series.
        classes: number of logits.
        channels: width of the stack.
        depth: number of residual layers.
        layer: ``s4d``, ``s5-ptd``, ``s5-legs``, or a function ``layer(channels, generator=…, **layer_options)`` that
            makes a module whose call (x, need_state=False) returns (y, state).
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
            valid: which steps are data; the padding stands at the end of a series. The layers are causal,
                so what is padded cannot reach what is not.

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
            x = x + self.dropout(layer(norm(x), need_state=False)[0])
        return self.head(self._pool(self.final_norm(x), valid))

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
