"""Gradients of single samples out of what a layer read and the gradient of what it returned.

Each class here is one use of one parameter in a forward pass. A sample's gradient is the sum over all
positions (and, where a parameter is used several times, over the uses); only then is it squared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.linalg.squared_products import add_squared_products_


class Use:
    """One use of a parameter: its gradients, sample by sample."""

    def dense(self, start: int, stop: int) -> Tensor:
        """The gradients of samples start … stop - 1, (samples, *shape of the parameter)."""
        raise NotImplementedError

    def add_squares(self, total: Tensor, samples: int, chunk: int) -> None:
        """Add the squares of all samples' gradients to `total`."""
        for start in range(0, samples, chunk):
            total += self.dense(start, min(start + chunk, samples)).square_().sum(0)


@dataclass
class LinearWeight(Use):
    """A Linear's weight: inputs a (samples, positions, in), output gradients g (samples, positions, out)."""

    a: Float[Tensor, "samples positions inputs"]
    g: Float[Tensor, "samples positions outputs"]

    def dense(self, start: int, stop: int) -> Tensor:
        return self.g[start:stop].mT @ self.a[start:stop]

    def add_squares(self, total: Tensor, samples: int, chunk: int) -> None:
        add_squared_products_(total, self.g, self.a, chunk)


@dataclass
class Bias(Use):
    """A bias: output gradients (samples, positions, features)."""

    g: Float[Tensor, "samples positions features"]

    def dense(self, start: int, stop: int) -> Tensor:
        return self.g[start:stop].sum(1)


@dataclass
class NormWeight(Use):
    """The scale of a norm layer: what it multiplied, and the output gradients; (samples, positions, *shape)."""

    x: Float[Tensor, "samples positions *shape"]
    g: Float[Tensor, "samples positions *shape"]

    def dense(self, start: int, stop: int) -> Tensor:
        return (self.x[start:stop] * self.g[start:stop]).sum(1)


@dataclass
class NormBias(Use):
    """The shift of a norm layer."""

    g: Float[Tensor, "samples positions *shape"]

    def dense(self, start: int, stop: int) -> Tensor:
        return self.g[start:stop].sum(1)


@dataclass
class EmbeddingWeight(Use):
    """An embedding: rows that were read, and the output gradients. Only rows that were read have a gradient."""

    ids: Int[Tensor, "samples positions"]
    g: Float[Tensor, "samples positions width"]
    rows: int
    padding: int | None

    def _weighed(self) -> Tensor:
        return self.g if self.padding is None else self.g * (self.ids != self.padding).unsqueeze(-1)

    def dense(self, start: int, stop: int) -> Tensor:
        g, ids = self._weighed()[start:stop], self.ids[start:stop]
        out = g.new_zeros(len(g), self.rows, g.shape[-1])
        return out.scatter_add_(1, ids.unsqueeze(-1).expand_as(g), g)

    def add_squares(self, total: Tensor, samples: int, chunk: int) -> None:
        keys = self.ids + self.rows * torch.arange(samples, device=self.ids.device).unsqueeze(1)
        unique, place = keys.flatten().unique(return_inverse=True)
        sums = self.g.new_zeros(len(unique), self.g.shape[-1]).index_add_(0, place, self._weighed().flatten(0, 1))
        total.index_add_(0, unique % self.rows, sums.square_())


@dataclass
class ConvWeight(Use):
    """A convolution's weight: its input, already padded, and the output gradients; (samples, channels, *space)."""

    layer: nn.Conv1d | nn.Conv2d
    x: Float[Tensor, "samples channels *space"]
    g: Float[Tensor, "samples outputs *out_space"]

    def dense(self, start: int, stop: int) -> Tensor:
        x, g = self.x[start:stop], self.g[start:stop]
        columns, groups = patches(self.layer, x), self.layer.groups
        columns = columns.unflatten(1, (groups, -1))
        g = g.flatten(2).unflatten(1, (groups, -1))
        return torch.einsum("ngol,ngkl->ngok", g, columns).reshape(len(x), *self.layer.weight.shape)


def patches(layer: nn.Conv1d | nn.Conv2d, x: Float[Tensor, "samples channels *space"]) -> Tensor:
    """The patches that a convolution reads from an input already padded: (samples, channels · kernel, positions)."""
    if isinstance(layer, nn.Conv1d):
        size, dilation, stride = (1, *layer.kernel_size), (1, *layer.dilation), (1, *layer.stride)
        return F.unfold(x.unsqueeze(2), size, dilation=dilation, stride=stride)
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)


def padded(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """The input as the convolution pads it."""
    sides = layer._reversed_padding_repeated_twice
    if not any(sides):
        return x
    return F.pad(x, sides, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


FAST = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm,
)  # fmt: skip
"""Layers whose samples' gradients are known in closed form. Exactly these types: a subclass may compute otherwise."""


def uses(layer: nn.Module, x: Tensor, g: Tensor) -> dict[str, Use]:
    """The uses of a layer's own parameters, by their name in the layer; both tensors have a leading sample axis.

    Args:
        x: what the layer read.
        g: the gradient of the summed losses with respect to what it returned.
    """
    wide = torch.promote_types(g.dtype, torch.float32)
    g = g.to(wide)
    if isinstance(layer, nn.Embedding):
        ids = x.reshape(len(x), -1)
        table = EmbeddingWeight(ids, g.reshape(*ids.shape, -1), layer.num_embeddings, layer.padding_idx)
        return {"weight": table}
    x = x.detach().to(wide)
    if isinstance(layer, nn.Linear):
        a, d = (t.reshape(len(t), -1, t.shape[-1]) for t in (x, g))
        return {"weight": LinearWeight(a, d), "bias": Bias(d)}
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return {"weight": ConvWeight(layer, padded(layer, x), g), "bias": Bias(g.flatten(2).mT)}
    if isinstance(layer, nn.LayerNorm):
        shape = layer.normalized_shape
        x = F.layer_norm(x, shape, eps=layer.eps)
        x, g = (t.reshape(len(t), -1, *shape) for t in (x, g))
        return {"weight": NormWeight(x, g), "bias": NormBias(g)}
    if isinstance(layer, nn.GroupNorm):
        x = F.group_norm(x, layer.num_groups, eps=layer.eps)
    else:  # a batch norm with its running statistics
        x = F.batch_norm(x, layer.running_mean.to(wide), layer.running_var.to(wide), eps=layer.eps)
    x, g = (t.flatten(2).mT if t.ndim > 2 else t.unsqueeze(1) for t in (x, g))
    return {"weight": NormWeight(x, g), "bias": NormBias(g)}
