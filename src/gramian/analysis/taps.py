"""Taps: read, or rewrite, what flows between the modules of any network.

A tap hangs reducers on named modules while a ``with`` block runs the model::

    with Taps(model, {"layers.*.mlp": [Moments()], "lm_head": [Covariance()]}, side="in") as taps:
        for batch in batches:
            model(batch)
    taps["layers.3.mlp"][0].mean

Every reducer is fed feature matrices (samples, features); how a tensor becomes one is `reduce`'s choice.
The hooks are gone when the block ends, whatever happened in it.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gramian.analysis.reducers import Reducer

Edit = Callable[[Tensor], Tensor]


class Taps:
    """Hang reducers, or edits, on the modules whose names match.

    Args:
        model: any module; its parameters and its mode are left as they are.
        wanted: for each pattern (a module's dotted name, ``*`` and ``?`` as in file names, ``""`` is the model
            itself) the reducers to feed; every module that matches gets its own copies. In write mode, a
            function from a tensor to the tensor that takes its place.
        side: ``"out"`` taps what a module returns, ``"in"`` its first argument, ``"grad"`` the gradient of
            what it returns (during ``backward``).
        reduce: how a tensor becomes a feature matrix. ``"tokens"``: every position of (batch, …, features)
            is a sample. ``"mean"``: features are averaged over all positions of (batch, …, features).
            ``"gap"``: (batch, channels, …) is averaged over space. ``"places"``: every place of
            (batch, channels, …) is a sample. ``"none"``: (batch, …) is flattened.
        part: which element of a tuple or dictionary output to take; by default the first tensor.
        mode: ``"read"`` or ``"write"``.
        max_bytes: what all reducers may hold together; more raises `MemoryError`.

    Raises:
        ValueError: a pattern that matches no module, or an unknown choice.

    A mask set as ``taps.mask = (batch, positions)`` leaves padded positions out (``"tokens"`` and ``"mean"``);
    a module that sees one vector a text, its positions pooled before, takes all.
    A module that is called several times in one pass feeds its reducers each time.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Mapping[str, Sequence[Reducer]] | Mapping[str, Edit],
        *,
        side: Literal["out", "in", "grad"] = "out",
        reduce: Literal["tokens", "mean", "gap", "places", "none"] = "tokens",
        part: int | str | None = None,
        mode: Literal["read", "write"] = "read",
        max_bytes: int | None = None,
    ) -> None:
        for name, value, allowed in (
            ("side", side, ("out", "in", "grad")),
            ("reduce", reduce, ("tokens", "mean", "gap", "places", "none")),
            ("mode", mode, ("read", "write")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
        if mode == "write" and side == "grad":
            raise ValueError("write mode edits what flows forward: side='in' or side='out'")
        self.side, self.reduce, self.part, self.mode, self.max_bytes = side, reduce, part, mode, max_bytes
        self.mask: Tensor | None = None
        self.modules = {n: m for n, m in model.named_modules() if any(_matches(n, p) for p in wanted)}
        for pattern in wanted:
            if not any(_matches(n, pattern) for n in self.modules):
                some = [n for n, _ in model.named_modules() if n][:8]
                raise ValueError(f"no module matches {pattern!r}; modules are named like {', '.join(some)}, …")
        self._wanted = wanted
        self._kept: dict[str, list[Reducer]] = {}
        if mode == "read":
            for name in self.modules:
                asked = [r for p, rs in wanted.items() if _matches(name, p) for r in rs]  # type: ignore[union-attr]
                self._kept[name] = copy.deepcopy(asked)
        self._handles: list[Any] = []

    def __enter__(self) -> Taps:
        for name, module in self.modules.items():
            if self.side == "in":
                handle = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            elif self.side == "out":
                handle = module.register_forward_hook(self._after(name))
            else:
                handle = module.register_full_backward_hook(self._backward(name))
            self._handles.append(handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __getitem__(self, name: str) -> list[Reducer]:
        """The reducers of one module, in the order in which they were asked for."""
        if name not in self._kept:
            raise KeyError(f"{name!r} is not tapped; tapped are {', '.join(self._kept)}")
        return self._kept[name]

    def __iter__(self):
        return iter(self._kept)

    @property
    def nbytes(self) -> int:
        """The memory that all reducers hold."""
        return sum(r.nbytes for rs in self._kept.values() for r in rs)

    # the hooks

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            holder, key = (arguments, 0) if arguments else (named, next(iter(named)))
            tensor, put = _find(holder[key] if arguments else named[key], self.part)
            changed = self._flow(name, tensor)
            if changed is None:
                return None
            value = put(changed)
            return ((value, *arguments[1:]), named) if arguments else (arguments, {**named, key: value})

        return hook

    def _after(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            tensor, put = _find(output, self.part)
            changed = self._flow(name, tensor)
            return None if changed is None else put(changed)

        return hook

    def _backward(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, gradient_in: Any, gradient_out: Any) -> None:
            self._flow(name, _find(gradient_out, self.part)[0])

        return hook

    def _flow(self, name: str, tensor: Tensor) -> Tensor | None:
        if self.mode == "write":
            for pattern, edit in self._wanted.items():
                if _matches(name, pattern):
                    tensor = edit(tensor)  # type: ignore[operator]
            return tensor
        features = self._features(tensor.detach())
        for reducer in self._kept[name]:
            reducer.update(features)
        if self.max_bytes is not None and self.nbytes > self.max_bytes:
            raise MemoryError(
                f"the taps hold {self.nbytes} bytes, over max_bytes={self.max_bytes}: tap fewer modules, "
                "or take reducers that do not grow (Moments, Covariance, Reservoir)"
            )
        return None

    def _features(self, x: Tensor) -> Tensor:
        if x.ndim < 2:
            raise ValueError(f"a tapped tensor has a batch and a feature axis, got shape {tuple(x.shape)}")
        if self.reduce == "none":
            return x.flatten(1)
        if self.reduce == "gap":
            return x.flatten(2).mean(2) if x.ndim > 2 else x
        if self.reduce == "places":
            return x.movedim(1, -1).flatten(0, -2)
        pooled = self.mask is not None and x.ndim - 1 < self.mask.ndim
        mask = None if self.mask is None or pooled else self.mask.to(x.device, torch.bool)
        if mask is not None and mask.shape != x.shape[:-1]:
            raise ValueError(f"the mask has shape {tuple(mask.shape)}, the tapped positions {tuple(x.shape[:-1])}")
        if self.reduce == "tokens":
            return x.flatten(0, -2) if mask is None else x[mask]
        positions = x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)
        if mask is None:
            return positions.mean(1)
        weights = mask.flatten(1).unsqueeze(-1).to(x.dtype)
        return (positions * weights).sum(1) / weights.sum(1).clamp(min=1)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _find(value: Any, part: int | str | None) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The tensor that is meant in a module's input or output, and how to put another in its place."""
    if isinstance(value, Tensor):
        return value, lambda new: new
    if isinstance(value, Mapping):
        keys = [k for k, v in value.items() if isinstance(v, Tensor)] if part is None else [part]
        if keys and isinstance(value.get(keys[0]), Tensor):

            def put_in_mapping(new: Tensor) -> Any:
                changed = copy.copy(value)
                changed[keys[0]] = new  # type: ignore[index]
                return changed

            return value[keys[0]], put_in_mapping
    elif isinstance(value, (tuple, list)):
        places = [i for i, v in enumerate(value) if isinstance(v, Tensor)] if part is None else [int(part)]
        if places and isinstance(value[places[0]], Tensor):
            i = places[0]
            return value[i], lambda new: type(value)([*value[:i], new, *value[i + 1 :]])
    raise TypeError(f"no tensor to tap in a {type(value).__name__}{f' at {part!r}' if part is not None else ''}")
