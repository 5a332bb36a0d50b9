"""Bi-Mamba: the projections of a network as signs with scales, to train so, and packed into bits afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from gramian.nn.quantized.scaled_sign import SignLinear
from gramian.surgery.swap import Handle, find, swap

__all__ = ["PROJECTIONS", "binarize", "pack"]

PROJECTIONS = ("*.in_proj", "*.out_proj")
"""What Bi-Mamba binarizes in a Mamba-2."""


def binarize(
    model: nn.Module, include: str | Iterable[str] = PROJECTIONS, exclude: str | Iterable[str] = ("*lm_head",)
) -> Handle:
    """Replace linear layers by `SignLinear`, in place, each from its weight.

    Args:
        include, exclude: patterns of the layers' names. Convolutions, decays and norms stay as they are: they are few
            and the model's memory hangs on them.

    Returns:
        a handle; ``merge()`` puts plain layers with the binary weights' values.

    Raises:
        ValueError: nothing matches, something else than a linear layer is named, or a weight that cannot be binarized.

    Source: Tang et al., "Bi-Mamba: Towards Accurate 1-Bit State Space Models", 2024.
    """
    patterns = (include,) if isinstance(include, str) else tuple(include)
    left_out = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    for name, layer in find(model, patterns).items():
        if not isinstance(layer, nn.Linear) and next(layer.children(), None) is None:
            raise ValueError(f"{name} is a {type(layer).__name__}; only linear layers are binarized")

    def factory(name: str, layer: nn.Module) -> nn.Module | None:
        if any(fnmatchcase(name, pattern) for pattern in left_out):
            return None
        assert isinstance(layer, nn.Linear)
        try:
            return SignLinear(layer.weight, layer.bias)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    return swap(model, patterns, factory, nn.Linear)


def pack(model: nn.Module) -> Handle:
    """Replace every `SignLinear` by its packed form, for inference.

    Raises:
        ValueError: there is none.
    """
    return swap(model, "*", lambda name, layer: layer.to_packed(), SignLinear)
