"""Attach adapters to a trained model: replace layers by name, freeze the rest, count what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn

from gramian.surgery.adapters.base import Adapter, fresh_generator
from gramian.surgery.adapters.lora import LoRALinear
from gramian.surgery.swap import find, swap

__all__ = ["Attached", "adapters", "attach", "attach_lora"]


class Attached:
    """Adapters in a model, and how to take them out. As a context manager it undoes itself on leaving.

    Attributes:
        model: the model, changed in place.
        names: the adapted layers.
    """

    def __init__(self, model: nn.Module, pattern: str | Iterable[str], factory: Any, kind: Any) -> None:
        flags = [(p, p.requires_grad) for p in model.parameters()]
        self._handle = swap(model, pattern, factory, kind)
        self._flags = flags
        self.model = model

    @property
    def names(self) -> tuple[str, ...]:
        return self._handle.names

    def __getitem__(self, name: str) -> Adapter:
        return self._handle.replacements[name]

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters of all adapters, by dotted name."""
        return {f"{n}.{k}": p for n, a in adapters(self.model).items() for k, p in a.trained().items()}

    @property
    def num_trained(self) -> int:
        """How many numbers of the adapters are trained."""
        return sum(p.numel() for p in self.parameters().values())

    @property
    def num_parameters(self) -> int:
        """How many numbers the whole model holds, adapters included."""
        return sum(p.numel() for p in self.model.parameters())

    def undo(self) -> None:
        """Put the original layers back, bit for bit, and everything's gradient flags as they were."""
        self._handle.undo()
        for parameter, needs_grad in self._flags:
            parameter.requires_grad_(needs_grad)

    def merge(self) -> None:
        """Put plain layers of weight W + ΔW in the adapters' places; `undo` still restores the originals."""
        self._handle.merge()
        flags = {id(parameter): needs_grad for parameter, needs_grad in self._flags}
        for parameter, needs_grad in self._flags:
            parameter.requires_grad_(needs_grad)
        for name, original in self._handle.originals.items():
            plain = dict(self.model.get_submodule(name).named_parameters())
            for key, parameter in original.named_parameters():
                plain[key].requires_grad_(flags[id(parameter)])

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def attach(
    model: nn.Module,
    pattern: str | Iterable[str],
    make: Callable[[str, nn.Module], Adapter | None],
    kind: type | tuple[type, ...] = nn.Linear,
    keep: str | Iterable[str] = (),
) -> Attached:
    """Replace every layer that matches by the adapter ``make(name, layer)`` and freeze all other parameters.

    Args:
        pattern: names of layers, as `gramian.surgery.swap.find` reads them.
        make: returns an `Adapter`, or None to leave a layer.
        kind: only layers of this type.
        keep: names of modules whose parameters stay trainable, such as a new head.

    Raises:
        ValueError: nothing matches, or every layer was left.
        TypeError: `make` returned something that is no adapter; the model is then unchanged.
    """

    def factory(name: str, layer: nn.Module) -> nn.Module | None:
        adapter = make(name, layer)
        if adapter is not None and not isinstance(adapter, Adapter):
            raise TypeError(f"{name}: expected an Adapter, got a {type(adapter).__name__}")
        return adapter

    patterns = (keep,) if isinstance(keep, str) else tuple(keep)
    kept = [p for m in find(model, patterns).values() for p in m.parameters()] if patterns else []
    attached = Attached(model, pattern, factory, kind)
    if not attached.names:
        raise ValueError(f"every layer that matches {pattern} was left as it is: there is nothing to train")
    model.requires_grad_(False)
    for adapter in adapters(model).values():
        for parameter in adapter.trained().values():
            parameter.requires_grad_(True)
    for parameter in kept:
        parameter.requires_grad_(True)
    return attached


def attach_lora(
    model: nn.Module,
    pattern: str | Iterable[str],
    rank: int = 8,
    *,
    ranks: Mapping[str, int] | None = None,
    keep: str | Iterable[str] = (),
    generator: torch.Generator | None = None,
    **settings: Any,
) -> Attached:
    """`LoRALinear` on every linear layer that matches.

    Args:
        rank: of every layer, unless `ranks` names another.
        ranks: ranks by layer name; 0 leaves a layer without an adapter.
        keep: as in `attach`.
        generator: what all starts are drawn from, one after the other.
        settings: as `LoRALinear` takes them (alpha, train, init, dropout, dtype).

    Raises:
        ValueError: nothing matches, or as `LoRALinear`.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> attach_lora(model, "*", rank=2).num_trained
    52
    """
    source, named = fresh_generator(generator), dict(ranks or {})

    def make(name: str, layer: nn.Module) -> Adapter | None:
        chosen = named.get(name, rank)
        return LoRALinear(layer, chosen, generator=source, **settings) if chosen else None

    return attach(model, pattern, make, nn.Linear, keep)


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """The adapters in a model by name; one that stands under several names is listed under its first."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}
