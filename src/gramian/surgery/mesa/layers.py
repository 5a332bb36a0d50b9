"""Mesa: swap a network's layers for ones that keep their activations in few bits while it trains.

Source: Pan et al., Mesa: A Memory-saving Training Framework for Transformers (2021), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.models.vision.deit import MatMul
from gramian.surgery.mesa import functions
from gramian.surgery.mesa.store import BITS, Codes, Quantizer, restore
from gramian.surgery.swap import Handle, swap

__all__ = ["KINDS", "MemorySaving", "mesa", "quantized_saves", "saved_bytes"]

KINDS = (
    nn.Linear, nn.Conv2d, nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GELU, nn.ReLU, nn.Softmax, MatMul,
)  # fmt: skip
"""The layers that have a memory-saving form."""


class MemorySaving(nn.Module):
    """A layer that keeps what its backward pass needs in few bits, while it trains; otherwise the layer itself.

    Args:
        layer: one of `KINDS`; it keeps its parameters.
        quantizers: one, and for a product two.
    """

    def __init__(self, layer: nn.Module, quantizers: list[Quantizer]) -> None:
        super().__init__()
        self.layer, self.quantizers = layer, nn.ModuleList(quantizers)

    def merged(self) -> nn.Module:
        """The plain layer."""
        return self.layer

    def forward(self, *inputs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        layer, x = self.layer, inputs[0]
        if not self.training or not torch.is_grad_enabled():
            return layer(*inputs)
        if isinstance(layer, nn.ReLU):
            return functions.Relu.apply(x)
        keep = self.quantizers[0]
        if isinstance(layer, MatMul):
            return functions.MatMul.apply(*inputs, keep, self.quantizers[1])
        if isinstance(layer, nn.Linear):
            return functions.Linear.apply(x, layer.weight, layer.bias, keep)
        if isinstance(layer, nn.Conv2d):
            settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
            return functions.Convolution.apply(x, layer.weight, layer.bias, settings, keep)
        if isinstance(layer, nn.LayerNorm):
            shape = list(layer.normalized_shape)
            return functions.LayerNorm.apply(x, shape, layer.weight, layer.bias, layer.eps, keep)
        if isinstance(layer, nn.GELU):
            return functions.Gelu.apply(x, layer.approximate, keep)
        if isinstance(layer, nn.Softmax):
            return functions.Softmax.apply(x, layer.dim, keep)
        if layer.num_batches_tracked is not None:
            layer.num_batches_tracked.add_(1)
        running = (layer.running_mean, layer.running_var)
        return functions.BatchNorm.apply(x, layer.weight, layer.bias, running, layer.momentum, layer.eps, keep)


def mesa(
    model: nn.Module,
    layers: str | Iterable[str] = "*",
    *,
    bits: int = 8,
    groups: str = "head",
    channel_groups: int = 1,
    decay: float | int = 0.9,
    stochastic: bool = True,
    generator: torch.Generator | None = None,
) -> Handle:
    """Replace a network's layers by memory-saving ones, in place; the forward pass stays what it was, to the bit.

    Args:
        model: any network; those of its layers that are of `KINDS` are replaced.
        layers: patterns of their names.
        bits: kept of each number: 1, 2, 4, 8 or 16. ReLU always keeps one bit.
        groups: ``"head"`` gives each head of an attention's products and softmax a range of its own, ``"tensor"``
            one range to all.
        channel_groups: ranges for the channels of the other layers' activations.
        decay, stochastic, generator: see `Quantizer`.

    Returns:
        a handle: ``undo()`` restores the layers and their weights, ``merge()`` the layers with the weights trained.

    Raises:
        ValueError: no layer matches, bits or groups that are none, a convolution that pads with anything but zeros,
            batch normalization without running statistics or momentum; in training, groups that do not divide the
            channels.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    >>> mesa(model, bits=8).names
    ('0', '1', '2')
    """
    if groups not in ("head", "tensor"):
        raise ValueError(f"groups={groups!r} is not 'head' or 'tensor'")
    if bits not in BITS or channel_groups < 1:
        raise ValueError(f"bits={bits}, channel_groups={channel_groups}: bits are {BITS}, groups at least 1")
    settings = {"decay": decay, "stochastic": stochastic, "generator": generator}

    def replace(name: str, layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            raise ValueError(f"{name}: give the convolution numbers of zeros as padding, not {layer.padding!r}")
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
            layer.running_mean is None or layer.momentum is None
        ):
            raise ValueError(f"{name}: batch normalization needs running statistics and a momentum")
        if isinstance(layer, nn.ReLU):
            return MemorySaving(layer, [])
        # 0 groups: every head its own
        share = (0 if groups == "head" else 1) if isinstance(layer, (MatMul, nn.Softmax)) else channel_groups
        return MemorySaving(layer, [Quantizer(bits, share, **settings) for _ in range(1 + isinstance(layer, MatMul))])

    return swap(model, layers, replace, KINDS)


@contextmanager
def quantized_saves(
    bits: int = 8, *, parameters: Iterable[Tensor] = (), smallest: int = 256, stochastic: bool = True,
    generator: torch.Generator | None = None,
) -> Iterator[None]:  # fmt: skip
    """Whatever autograd saves inside the block is kept in few bits: for any network, without a change to it.

    Each tensor gets one range, its own. Tensors that are not floating, small ones (norms' statistics), and views of
    the parameters are kept as they are. What several operations save of one tensor is stored for each of them.

    Args:
        bits: 1, 2, 4, 8 or 16.
        parameters: tensors that stay exact, such as ``model.parameters()``; leaves with a gradient stay so anyway.
        smallest: tensors of fewer numbers stay exact.
        stochastic, generator: see `Quantizer`.

    Raises:
        ValueError: other bits.
    """
    quantizer = Quantizer(bits, decay=0, stochastic=stochastic, generator=generator)
    exact = {p.untyped_storage().data_ptr() for p in parameters}

    def save(x: Tensor) -> Any:
        leaf = x.requires_grad and x.is_leaf
        if leaf or not x.is_floating_point() or x.numel() < smallest or x.untyped_storage().data_ptr() in exact:
            return x
        return quantizer(x.detach().reshape(1, -1, 1)), tuple(x.shape), x.dtype

    def load(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        codes, shape, dtype = kept
        return restore(Codes(*codes), bits, (1, torch.Size(shape).numel(), 1), dtype).reshape(shape)

    with torch.autograd.graph.saved_tensors_hooks(save, load):
        yield


def saved_bytes(function: Callable[[], Any], parameters: Iterable[Tensor] = ()) -> int:
    """The bytes that autograd holds for the backward pass of what `function` computes.

    Storages count once however many operations save them; those of the `parameters` do not count.

    >>> x = torch.zeros(10, 4, requires_grad=True)
    >>> saved_bytes(lambda: x.exp().sum())
    160
    """
    skipped = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, Any] = {}

    def save(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in skipped and storage.nbytes():
            kept[storage.data_ptr()] = storage  # held, so that no later storage takes its place
        return x

    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        function()
    return sum(storage.nbytes() for storage in kept.values())
