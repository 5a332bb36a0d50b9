r"""A linear layer of rank-one components that are switched on and off sample by sample."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GatedSVDLinear"]


class GatedSVDLinear(nn.Module):
    r"""\(y = \sum_i g_i\, s_i\, u_i\, (v_i^\top x) + b\): components \(u_i, s_i, v_i\), each sample's gate \(g\).

    The first `common` components (learngenes) stay on for every sample; behind them lie `per_class` components
    (tailors) for each class, on for the samples of that class. The factors are free parameters: nothing keeps them
    orthogonal.

    Args:
        in_features, out_features: as of `torch.nn.Linear`.
        common: how many components serve all classes.
        per_class: how many serve one class alone.
        classes: how many classes.
        bias: whether there is one.
        generator: for the initial factors; None: torch's random state, as for `torch.nn.Linear`. With the gate of
            one class on, the product's entries have the variance of a dense layer's.

    Raises:
        ValueError: no common component, negative counts, or no feature.

    >>> layer = GatedSVDLinear(6, 4, common=2, per_class=1, classes=3)
    >>> gate = layer.gate(torch.tensor([0, 2]))
    >>> gate
    tensor([[1., 1., 1., 0., 0.],
            [1., 1., 0., 0., 1.]])
    >>> layer(torch.zeros(2, 7, 6), gate).shape
    torch.Size([2, 7, 4])

    Source: Xie et al. (2024), section 3.
    """

    def __init__(
        self, in_features: int, out_features: int, common: int, per_class: int, classes: int, bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if common < 1:
            raise ValueError(f"common={common}: at least one component must serve all classes")
        if min(per_class, classes) < 0 or min(in_features, out_features) < 1:
            raise ValueError(
                f"per_class={per_class} and classes={classes} must not be negative, features ({in_features}, "
                f"{out_features}) at least 1"
            )
        self.in_features, self.out_features = in_features, out_features
        self.common, self.per_class, self.classes = common, per_class, classes
        size = self.components
        self.up = nn.Parameter(torch.randn(out_features, size, generator=generator) / math.sqrt(common + per_class))
        self.scale = nn.Parameter(torch.full((size,), math.sqrt(1 / 3)))  # a dense layer's variance is 1 / (3 in)
        self.down = nn.Parameter(torch.randn(size, in_features, generator=generator) / math.sqrt(in_features))
        bound = 1 / math.sqrt(in_features)
        drawn = bound * (2 * torch.rand(out_features, generator=generator) - 1)
        self.bias = nn.Parameter(drawn) if bias else None

    @property
    def components(self) -> int:
        """How many there are in all."""
        return self.common + self.per_class * self.classes

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        r"""\(U\,\mathrm{diag}(s)\,V^\top\), all components on."""
        return (self.up * self.scale) @ self.down

    def gate(self, labels: Tensor) -> Float[Tensor, "batch components"]:
        """One for the common components and those of each sample's class, zero elsewhere.

        Args:
            labels: integers, (batch,); −1 for the common components alone.

        Raises:
            ValueError: a label without tailors.
        """
        return class_gate(labels, self.common, self.per_class, self.classes).to(self.up)

    def forward(
        self, x: Float[Tensor, "batch *tokens inputs"], gate: Float[Tensor, "batch components"]
    ) -> Float[Tensor, "batch *tokens outputs"]:
        """The layer with each sample's own components.

        Raises:
            ValueError: a gate of another width.
        """
        if gate.shape[-1] != self.components:
            raise ValueError(f"the gate has {gate.shape[-1]} entries; this layer has {self.components} components")
        mask = (gate * self.scale).view(len(gate), *(1,) * (x.ndim - 2), -1)
        return nn.functional.linear(nn.functional.linear(x, self.down) * mask, self.up, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, common={self.common}, "
            f"per_class={self.per_class}, classes={self.classes}"
        )


def class_gate(labels: Tensor, common: int, per_class: int, classes: int) -> Float[Tensor, "batch components"]:
    """One for `common` components and the `per_class` of each label, zero elsewhere; label −1 has no class.

    Raises:
        ValueError: a label without tailors, or labels that are not whole numbers.
    """
    if labels.is_floating_point() or labels.ndim != 1:
        raise ValueError(
            f"labels of {labels.dtype} and shape {tuple(labels.shape)}; whole numbers, (batch,), are needed"
        )
    if len(labels) and (int(labels.min()) < -1 or int(labels.max()) >= classes):
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}; tailors serve 0 … {classes - 1} (−1: none)"
        )
    owner = torch.arange(classes, device=labels.device).repeat_interleave(per_class)
    own = (owner == labels[:, None]).float()
    return torch.cat([torch.ones(len(labels), common, device=labels.device), own], 1)
