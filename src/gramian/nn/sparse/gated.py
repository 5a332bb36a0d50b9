"""A gated feed-forward layer and a linear layer that skip what is small: dense for many tokens, sparse for one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.gathered import GatedProduct, summed_product


class SparseGatedMLP(nn.Module):
    r"""\(W_\text{down}\,(W_\text{up} x \odot g)\), \(g_i = a(W_\text{gate} x)_i\), or 0 where it is under \(t_i\).

    One token at a time, without gradients and on the CPU, only the rows of the open gates are read; otherwise
    the closed ones are masked.

    Args:
        gate, up, down: the linear layers; they are shared, not copied.
        activation: \(a\).
        thresholds: \(t\), one a neuron, at least 0; zero keeps all.

    Raises:
        ValueError: layers or thresholds whose sizes do not fit, or a negative threshold.
    """

    def __init__(
        self,
        gate: nn.Linear,
        up: nn.Linear,
        down: nn.Linear,
        activation: Callable[[Tensor], Tensor],
        thresholds: Float[Tensor, " neurons"],
    ) -> None:
        super().__init__()
        neurons = gate.out_features
        if not (up.out_features == down.in_features == len(thresholds) == neurons):
            raise ValueError(
                f"gate has {neurons} neurons, up {up.out_features}, down {down.in_features}, and there are "
                f"{len(thresholds)} thresholds"
            )
        if not bool((thresholds >= 0).all()):
            raise ValueError("thresholds are sizes: at least 0, and no NaN")
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down
        self.activation = activation
        self.register_buffer("thresholds", thresholds.clone())
        self._prepared: tuple[tuple[int, ...], GatedProduct] | None = None
        self._last: Tensor | None = None

    @property
    def density(self) -> float:
        """The share of open gates in the last call."""
        return _share(None if self._last is None else self._masked(self._last))

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... outputs"]:
        opened = self.activation(self.gate_proj(x))
        self._last = opened.detach()
        single = x.numel() == x.shape[-1] and x.device.type == "cpu" and not torch.is_grad_enabled()
        if not single or self.up_proj.bias is not None:
            return self.down_proj(self.up_proj(x) * self._masked(opened))
        y = self._product()(x.view(-1), opened.view(-1), self.thresholds)
        if self.down_proj.bias is not None:
            y = y + self.down_proj.bias
        return y.view(*x.shape[:-1], -1)

    def _masked(self, opened: Tensor) -> Tensor:
        return opened.masked_fill(opened.abs() < self.thresholds, 0)

    def _product(self) -> GatedProduct:
        """The weights by neurons, laid out when first needed and again when one was moved or changed in place."""
        up, down = self.up_proj.weight, self.down_proj.weight
        state = (up.data_ptr(), down.data_ptr(), up._version, down._version)
        if self._prepared is None or self._prepared[0] != state:
            self._prepared = (state, GatedProduct(up.detach(), down.detach().mT.contiguous()))
        return self._prepared[1]


class ThresholdedLinear(nn.Module):
    r"""A linear layer on inputs whose entries under `threshold` in size are taken as zero.

    Args:
        base: the layer; it is shared, not copied.
        threshold: at least 0; zero changes nothing.

    Raises:
        ValueError: a negative threshold.
    """

    def __init__(self, base: nn.Linear, threshold: float) -> None:
        super().__init__()
        if not threshold >= 0:
            raise ValueError(f"threshold={threshold} is a size: at least 0")
        self.base, self.threshold = base, threshold
        self._rows: tuple[Tensor, int] | None = None
        self._last: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def density(self) -> float:
        """The share of kept inputs in the last call."""
        return _share(self._last)

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        kept = x.masked_fill(x.abs() < self.threshold, 0)
        self._last = kept.detach()
        if x.numel() != x.shape[-1] or torch.is_grad_enabled() or x.device.type != "cpu":
            return self.base(kept)
        weight = self.base.weight
        if self._rows is None or self._rows[1] != weight._version or self._rows[0].dtype != weight.dtype:
            self._rows = (weight.detach().mT.contiguous(), weight._version)
        y = summed_product(kept.flatten(), self._rows[0])
        return (y if self.base.bias is None else y + self.base.bias).view(*x.shape[:-1], -1)


def _share(last: Tensor | None) -> float:
    if last is None:
        raise ValueError("the layer has not been called yet")
    return float(last.count_nonzero()) / last.numel()
