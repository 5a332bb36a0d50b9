"""What each parameter of a model is to its width: which of its sides grow, and by how much."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

__all__ = ["Role", "Weight", "base_shapes", "weights"]

Role = Literal["input", "hidden", "output", "vector", "fixed", "free"]
"""Only fan-out grows · both grow · only fan-in grows · a grown vector · nothing grows · no rule applies."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ORIGINAL = ".parametrizations."


@dataclass(frozen=True)
class Weight:
    """One parameter as the widths see it.

    Attributes:
        name: as `named_parameters` gave it before any multiplier was attached.
        owner, attribute: the module that holds it, and under which name.
        role: what grows.
        fan_in, fan_out: inputs summed into one output (a kernel's places included), and outputs; 1 and its length
            for a vector.
        grown_in, grown_out: how often the base model's fan-in and fan-out fit into the model's.
    """

    name: str
    owner: nn.Module
    attribute: str
    role: Role
    fan_in: int
    fan_out: int
    grown_in: float
    grown_out: float

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself, without its multiplier."""
        held = getattr(self.owner, "parametrizations", None)
        if held is not None and self.attribute in held:
            return held[self.attribute].original
        return getattr(self.owner, self.attribute)


def _owned(model: nn.Module) -> list[tuple[str, nn.Module, str, nn.Parameter]]:
    """(name, owner, attribute, parameter) for every place of a parameter, multipliers seen through."""
    found = []
    for prefix, module in model.named_modules():
        if _ORIGINAL in f".{prefix}.":
            continue
        # a weight with a multiplier keeps its place before the bias
        places: dict[str, nn.Parameter] = {}
        for attribute, held in getattr(module, "parametrizations", {}).items():
            if not hasattr(held, "original"):
                raise ValueError(f"{prefix}.{attribute} is parametrized by several tensors: start from a plain model")
            places[attribute] = held.original
        places |= dict(module.named_parameters(recurse=False))
        found += [(f"{prefix}.{a}" if prefix else a, module, a, p) for a, p in places.items()]
    return found


def base_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a narrow model, by name: what a wide model's shapes are compared with.

    >>> base_shapes(nn.Linear(3, 2))
    {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: tuple(p.shape) for name, _, _, p in _owned(model)}


def weights(
    model: nn.Module,
    base: Mapping[str, tuple[int, ...]] | nn.Module | None = None,
    *,
    delta: Mapping[str, tuple[int, ...]] | nn.Module | None = None,
    tied: Collection[str] = (),
    free: Collection[str] = (),
) -> list[Weight]:
    """Every parameter of `model` with its role, in the order in which the modules were registered.

    Linear and convolution layers have matrices; an embedding is the matrix of a one-hot input (fan-in 1); every
    parameter of one axis is a vector. A side grows if its length differs from the base model's.

    Args:
        model: the network.
        base: shapes of the same network at its base width (`base_shapes`), or that network; without it every role is
            ``fixed`` or ``vector`` and nothing has grown.
        delta: the same with every side that grows changed; needed only if the model keeps one of them at its base
            length while another grows.
        tied: names of second places of shared parameters, such as ``"head.weight"`` of a head that is its embedding.
        free: names of parameters that no rule can read (several axes in a module of one's own, or none).

    Raises:
        ValueError: a parameter that is missing in `base` or has other axes there, has a side of zero, is shared but
            not in `tied`, or that no rule can read and that is not in `free`.

    >>> wide, narrow = nn.Linear(8, 64), nn.Linear(8, 16)
    >>> [(w.name, w.role, w.grown_out) for w in weights(wide, narrow)]
    [('weight', 'input', 4.0), ('bias', 'vector', 4.0)]
    """
    known = base_shapes(base) if isinstance(base, nn.Module) else base
    other = base_shapes(delta) if isinstance(delta, nn.Module) else delta
    if other is not None and (known is None or other.keys() != known.keys()):
        raise ValueError("delta= marks what grows from base=: give both, of the same parameters")
    seen: dict[int, str] = {}
    found: list[Weight] = []
    for name, owner, attribute, parameter in _owned(model):
        if isinstance(parameter, nn.UninitializedParameter) or parameter.numel() == 0:
            raise ValueError(f"{name} is empty or not yet initialized: every side of a parameter must be at least 1")
        if id(parameter) in seen and name not in tied:
            raise ValueError(
                f"{name} is the same tensor as {seen[id(parameter)]}: name it in tied= if it reads the other way round"
            )
        seen.setdefault(id(parameter), name)
        shape = tuple(parameter.shape)
        before = shape
        if known is not None:
            if name not in known:
                raise ValueError(f"{name} has no base shape; the base knows {', '.join(known) or 'nothing'}")
            before = tuple(known[name])
            if len(before) != len(shape):
                raise ValueError(f"{name} has shape {shape}, its base shape is {before}: the axes must be the same")
        if name in free:
            found.append(Weight(name, owner, attribute, "free", 1, parameter.numel(), 1.0, 1.0))
            continue
        found.append(_weight(name, owner, attribute, shape, before, other[name] if other else shape))
    return found


def _weight(
    name: str,
    owner: nn.Module,
    attribute: str,
    shape: tuple[int, ...],
    before: tuple[int, ...],
    other: tuple[int, ...],
) -> Weight:
    grows = [a != b or c != b for a, b, c in zip(shape, before, other)]
    if len(shape) == 1:
        grown = shape[0] / before[0]
        return Weight(name, owner, attribute, "vector" if grows[0] else "fixed", 1, shape[0], 1.0, grown)
    if isinstance(owner, nn.Embedding) and len(shape) == 2:
        role: Role = "input" if grows[1] else "fixed"
        return Weight(name, owner, attribute, role, 1, shape[1], 1.0, shape[1] / before[1])
    if isinstance(owner, _TRANSPOSED) and attribute == "weight":
        shape, before = (shape[1], shape[0], *shape[2:]), (before[1], before[0], *before[2:])
        grows = [grows[1], grows[0]]
    elif not (isinstance(owner, _MATRICES) and attribute == "weight"):
        kind = type(owner).__name__
        raise ValueError(
            f"{name} of shape {shape} in a {kind} has no rule: name it in free=, it keeps its start and its lr"
        )
    fan_in, fan_out = shape[1] * math.prod(shape[2:]), shape[0]
    roles: dict[tuple[bool, bool], Role] = {
        (False, False): "fixed", (False, True): "input", (True, False): "output", (True, True): "hidden",
    }  # fmt: skip
    role = roles[grows[1], grows[0]]
    grown_in, grown_out = shape[1] / before[1], shape[0] / before[0]
    return Weight(name, owner, attribute, role, fan_in, fan_out, grown_in, grown_out)
