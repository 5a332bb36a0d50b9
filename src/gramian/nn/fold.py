r"""Batch normalization folded into the linear map before it.

In evaluation \(\operatorname{BN}(W x + b) = (g W) x + g (b - \mu) + \beta\) with \(g = \gamma / \sqrt{\sigma^2 +
\epsilon}\): one linear map, which is what rules on weights (and kernels of inference) want to see.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fold_batch_norm"]

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module, *example: Tensor, tolerance: float = 1e-3) -> nn.Module:
    """A copy in evaluation mode whose batch normalizations are part of the layers before them.

    Which layer feeds which normalization is seen in one pass of `example`, so that it does not matter how the network
    is written. A normalization that no linear layer feeds alone stays.

    Args:
        model: any network; left as found.
        example: its inputs, for one pass.
        tolerance: how far the copy's answer may be off, relative to the largest entry.

    Raises:
        ValueError: the copy answers otherwise (a layer's output is used elsewhere as well, say).

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_batch_norm(net, torch.zeros(1, 1, 4, 4))
    Sequential(
      (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = copy.deepcopy(model).eval()
    pairs, wanted = _pairs(folded, example)
    for norm_name, layer in pairs.items():
        norm: Any = folded.get_submodule(norm_name)
        _fold(layer, norm)
        parent, _, name = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), name, nn.Identity())
    with torch.no_grad():
        found = _answer(folded(*example))
    off, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    if not off <= tolerance * max(size, torch.finfo(wanted.dtype).tiny):
        raise ValueError(
            f"folding changes the answer by {off:.3g} of {size:.3g}: a layer before a normalization is shared, or its "
            "output is used elsewhere too; leave that normalization as it is"
        )
    return folded


def _answer(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"the model returns a {type(value).__name__}: wrap it so that it returns one tensor")
    return value


def _pairs(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[dict[str, nn.Module], Tensor]:
    """For each normalization, the linear layer whose output it reads; and the model's answer."""
    made: list[tuple[Any, nn.Module]] = []
    pairs: dict[str, nn.Module] = {}
    calls: dict[int, int] = {}

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        made.append((output, module))  # kept alive, so that no other tensor takes its identity
        calls[id(module)] = calls.get(id(module), 0) + 1

    def before(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            for output, layer in made:
                if output is arguments[0]:
                    pairs[name] = layer

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _LINEAR):
            handles.append(module.register_forward_hook(after))
        elif isinstance(module, _NORM) and module.running_var is not None:
            handles.append(module.register_forward_pre_hook(before(name)))
    try:
        with torch.no_grad():
            answer = _answer(model(*example))
    finally:
        for handle in handles:
            handle.remove()
    return {n: layer for n, layer in pairs.items() if calls[id(layer)] == 1}, answer


def _fold(layer: Any, norm: Any) -> None:
    with torch.no_grad():
        gain = (norm.running_var + norm.eps).rsqrt()
        gain = gain if norm.weight is None else gain * norm.weight
        bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        bias = bias * gain if norm.bias is None else bias * gain + norm.bias
        layer.weight.mul_(gain.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)
