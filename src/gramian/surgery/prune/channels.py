"""Which channels of a network belong together: what writes them, what filters them, what reads them.

A group of channels is one axis that several weights share. A layer's outputs form a group; activations, pooling and
depthwise convolutions keep it; a sum of two branches makes one group of both. Changing a group's size means changing
that axis in all its members.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

__all__ = ["Group", "Member", "channel_groups"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
# what acts on every channel alike and by itself
_PER_CHANNEL = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Hardswish,
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d,
)  # fmt: skip
_FUNCTIONS = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.softplus, F.dropout, F.max_pool2d, F.avg_pool2d,
    F.adaptive_avg_pool2d, torch.relu, torch.tanh, torch.sigmoid, F.hardswish,
}  # fmt: skip
_METHODS = {"relu", "tanh", "sigmoid", "contiguous"}
_SUMS = {operator.add, operator.iadd, torch.add, operator.sub, torch.sub}
_FLAT = {torch.flatten}


@dataclass(frozen=True)
class Member:
    """A weight that has a group's channels along one of its axes.

    Attributes:
        name: of the parameter.
        axis: 0 or 1.
        role: ``"writes"``: the channels are its outputs (a filter that each channel has for itself counts as such);
            ``"reads"``: they are its inputs.
        repeat: entries of the axis for each channel: the places of a map that was flattened; else 1.
    """

    name: str
    axis: int
    role: Literal["writes", "reads"]
    repeat: int = 1


@dataclass(frozen=True)
class Group:
    """Channels that stand and fall together.

    Attributes:
        name: of the first layer that writes them.
        size: how many there are.
        members: the weights.
    """

    name: str
    size: int
    members: tuple[Member, ...]


class _Tracer(fx.Tracer):
    """Does not look into layers, whatever class they derive from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _LAYERS + _NORMS) or super().is_leaf_module(m, module_qualified_name)


class _Spaces:
    """Channel spaces under union."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.fixed: set[int] = set()
        self.members: list[tuple[int, Member]] = []
        self.sizes: dict[int, int] = {}
        self.names: dict[int, str] = {}

    def new(self, size: int | None = None, name: str = "", *, fixed: bool = False) -> int:
        space = len(self.parent)
        self.parent.append(space)
        if fixed:
            self.fixed.add(space)
        if size is not None:
            self.sizes[space], self.names[space] = size, name
        return space

    def root(self, space: int) -> int:
        while self.parent[space] != space:
            space = self.parent[space]
        return space

    def join(self, first: int, second: int) -> int:
        first, second = sorted((self.root(first), self.root(second)))
        if first == second:
            return first
        if first in self.sizes and second in self.sizes and self.sizes[first] != self.sizes[second]:
            return self.fix(first, second)  # broadcast: left as it is
        self.parent[second] = first
        if second in self.fixed:
            self.fixed.add(first)
        if first not in self.sizes and second in self.sizes:
            self.sizes[first], self.names[first] = self.sizes[second], self.names[second]
        return first

    def fix(self, *spaces: int) -> int:
        self.fixed.update(self.root(s) for s in spaces)
        return self.root(spaces[0])


def channel_groups(model: nn.Module) -> list[Group]:
    """The groups of channels whose size is free: neither inputs nor outputs of the network, in the order they arise.

    Args:
        model: whose forward pass can be traced symbolically, of linear layers, convolutions (whole or depthwise), sums,
            activations and pooling; normalizations folded (`gramian.nn.fold.fold_batch_norm`).

    Raises:
        ValueError: a network that cannot be traced, a normalization, a layer that is called twice, or an operation
            through which channels cannot be followed.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [(g.name, g.size, [m.name for m in g.members]) for g in channel_groups(net)]
    [('0', 8, ['0.weight', '0.bias', '2.weight'])]
    """
    for name, module in model.named_modules():
        if isinstance(module, _NORMS):
            raise ValueError(
                f"{name} is a {type(module).__name__}: fold normalizations into the layers before them first"
            )
    if isinstance(model, _LAYERS):  # its channels are all inputs and outputs
        return []
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise ValueError(f"the network cannot be traced symbolically: {error}") from error
    spaces, where, seen = _Spaces(), {}, set()
    for node in graph.nodes:
        if node.op == "placeholder":
            where[node] = spaces.new(fixed=True)
        elif node.op == "output":
            spaces.fix(*(where[a] for a in node.all_input_nodes if a in where))
        elif node.op == "call_module":
            where[node] = _module(model.get_submodule(str(node.target)), str(node.target), node, where, spaces, seen)
        else:
            where[node] = _operation(node, where, spaces)
    roots: dict[int, list[Member]] = {}
    for space, member in spaces.members:
        roots.setdefault(spaces.root(space), []).append(member)
    fixed = {spaces.root(s) for s in spaces.fixed}
    return [
        Group(spaces.names[root], spaces.sizes[root], tuple(members))
        for root, members in sorted(roots.items())
        if root not in fixed and root in spaces.sizes
    ]


def _module(layer: Any, name: str, node: fx.Node, where: dict[Any, int], spaces: _Spaces, seen: set[str]) -> int:
    space = where[node.args[0]]
    if isinstance(layer, _PER_CHANNEL):
        return space
    if isinstance(layer, (nn.Flatten, nn.Unflatten)):
        return _reshaped(space, node, spaces, isinstance(layer, nn.Flatten) and layer.start_dim == 1)
    if not isinstance(layer, _LAYERS):
        raise ValueError(f"channels cannot be followed through {name}, a {type(layer).__name__}")
    if name in seen:
        raise ValueError(f"{name} is called twice: its weights would belong to two places at once")
    seen.add(name)
    parts = getattr(layer, "groups", 1)
    wide, out = layer.weight.shape[1] * parts, layer.weight.shape[0]
    if parts > 1:
        if not parts == wide == out:
            raise ValueError(f"{name} has {parts} groups: only depthwise and whole convolutions can be followed")
        spaces.members.append((space, Member(f"{name}.weight", 0, "writes")))
        if layer.bias is not None:
            spaces.members.append((space, Member(f"{name}.bias", 0, "writes")))
        return space
    size = spaces.sizes.get(spaces.root(space), wide)
    if wide % size:
        spaces.fix(space)
    spaces.members.append((space, Member(f"{name}.weight", 1, "reads", max(wide // size, 1))))
    made = spaces.new(out, name)
    spaces.members.append((made, Member(f"{name}.weight", 0, "writes")))
    if layer.bias is not None:
        spaces.members.append((made, Member(f"{name}.bias", 0, "writes")))
    return made


def _operation(node: fx.Node, where: dict[Any, int], spaces: _Spaces) -> int:
    inputs = [where[a] for a in node.all_input_nodes if a in where]
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if node.target in _SUMS or (node.op == "call_method" and name in ("add", "add_")):
        if len(inputs) == 1:
            return inputs[0]
        return spaces.join(inputs[0], inputs[1])
    if node.target in _FUNCTIONS or (node.op == "call_method" and name in _METHODS):
        return inputs[0]
    if name == "mean":
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        axes = (axes,) if isinstance(axes, int) else axes
        if axes is not None and all(a >= 2 for a in axes):
            return inputs[0]
    if name == "flatten" and len(inputs) == 1:
        start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
        return _reshaped(inputs[0], node, spaces, start == 1)
    raise ValueError(f"channels cannot be followed through {name} ({node.op} {node.name})")


def _reshaped(space: int, node: fx.Node, spaces: _Spaces, keeps: bool) -> int:
    if keeps:
        return space if spaces.root(space) not in spaces.fixed else spaces.new(fixed=True)
    if spaces.root(space) not in spaces.fixed:
        raise ValueError(f"{node.name} mixes channels with other axes: they cannot be followed through it")
    return spaces.new(fixed=True)
