"""Replace layers of a trained network by name, and put them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from types import TracebackType

import torch
from torch import Tensor, nn

__all__ = ["Handle", "find", "swap"]

Factory = Callable[[str, nn.Module], nn.Module | None]


def find(
    model: nn.Module, pattern: str | Iterable[str], kind: type | tuple[type, ...] = nn.Module
) -> dict[str, nn.Module]:
    """The submodules whose dotted names match a shell pattern, by name; ``*`` also crosses dots.

    A module that is registered under several names is listed under each that matches.

    Args:
        pattern: one pattern or several, such as ``"encoder.*.attention.query"``.
        kind: only modules of this type.

    Raises:
        ValueError: nothing matches; the message lists names that would.
    """
    patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
    named = {name: m for name, m in model.named_modules(remove_duplicate=False) if name and isinstance(m, kind)}
    found = {name: m for name, m in named.items() if any(fnmatchcase(name, p) for p in patterns)}
    if not found:
        raise ValueError(
            f"no layer matches {', '.join(patterns)}; some names are {', '.join(list(named)[:8]) or '(none)'}"
        )
    return found


class Handle:
    """What a swap did, and how to take it back. As a context manager it undoes the swap on leaving.

    Attributes:
        names: the dotted names that were replaced.
        originals, replacements: the modules, by name.
    """

    def __init__(self, model: nn.Module, originals: dict[str, nn.Module], replacements: dict[str, nn.Module]) -> None:
        self._model = model
        self.originals = originals
        self.replacements = replacements
        # by identity: a replacement may hold the original itself, or share its weights, and train them
        self._values: dict[int, tuple[Tensor, Tensor, bool]] = {}
        for module in originals.values():
            for tensor in (*module.parameters(), *module.buffers()):
                self._values[id(tensor)] = (tensor, tensor.detach().clone(), tensor.requires_grad)
        self._modes = {id(m): (m, m.training) for o in originals.values() for m in o.modules()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.originals)

    def undo(self) -> None:
        """Put the original modules back, with the very bits, gradients' flags and modes they had."""
        with torch.no_grad():
            for tensor, value, needs_grad in self._values.values():
                tensor.requires_grad_(needs_grad)
                tensor.copy_(value)
        for module, training in self._modes.values():
            module.training = training
        self._put(self.originals)

    def merge(self) -> None:
        """Put in each replacement's place what its ``merged()`` returns: a plain module of the same function.

        Raises:
            TypeError: a replacement has no ``merged``.
        """
        merged: dict[int, nn.Module] = {}
        for name, module in self.replacements.items():
            if not callable(getattr(module, "merged", None)):
                raise TypeError(f"{name}: a {type(module).__name__} has no merged() and cannot be merged")
            if id(module) not in merged:
                merged[id(module)] = module.merged()
        self._put({name: merged[id(module)] for name, module in self.replacements.items()})

    def _put(self, modules: dict[str, nn.Module]) -> None:
        for name, module in modules.items():
            _set(self._model, name, module)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def swap(
    model: nn.Module, pattern: str | Iterable[str], factory: Factory, kind: type | tuple[type, ...] = nn.Module
) -> Handle:
    """Replace every layer that matches by ``factory(name, layer)``, in place.

    A module that stands under several names is replaced by one module under all of them, so that what was
    tied stays tied; for this the factory sees its first name, and all its names are replaced even where
    the pattern matches only one. Of nested matches the outermost is replaced. A factory that returns
    None, or the layer itself, leaves it.

    Args:
        pattern, kind: as `find`.

    Returns:
        a handle with ``undo()`` and ``merge()``.

    Raises:
        ValueError: nothing matches, or a matching layer has parameters on the meta device, which hold no values.
        TypeError: the factory returned something else than a module; the model is then unchanged.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with swap(model, "2", lambda name, layer: nn.Identity()) as handle:
    ...     handle.names
    ('2',)
    """
    matched = {id(m) for m in find(model, pattern, kind).values()}
    originals: dict[str, nn.Module] = {}
    replacements: dict[str, nn.Module] = {}
    made: dict[int, nn.Module | None] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if not name or id(module) not in matched or any(name.startswith(f"{outer}.") for outer in originals):
            continue
        if id(module) not in made:
            if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
                raise ValueError(f"{name} is on the meta device and holds no values: load the model before swapping")
            new = factory(name, module)
            if new is not None and not isinstance(new, nn.Module):
                raise TypeError(f"the factory returned a {type(new).__name__} for {name}, not a module")
            made[id(module)] = None if new is module else new
        new = made[id(module)]
        if new is not None:
            originals[name], replacements[name] = module, new
    handle = Handle(model, originals, replacements)
    for name, new in replacements.items():
        new.train(originals[name].training)
    handle._put(replacements)
    return handle
