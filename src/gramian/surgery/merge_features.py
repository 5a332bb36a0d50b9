r"""Iterative feature merging: channels with nearly the same weights in and out become one, without any data.

Two channels are functionally equivalent if exchanging them for one changes nothing: if they are written alike, the one
that stays can be read with the sum of both readers' weights. How many channels are left measures how complex the
features of a layer are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.surgery.prune.channels import Group, channel_groups

__all__ = ["MergeReport", "channel_distances", "feature_complexity", "iterative_merge"]


@dataclass
class MergeReport:
    """What a merging did.

    Attributes:
        before, after: channels of each group.
        clusters: for each group and each channel that is left, the channels it stands for.
        parameters: of the network, before and after.
    """

    before: dict[str, int]
    after: dict[str, int]
    clusters: dict[str, list[list[int]]]
    parameters: tuple[int, int] = (0, 0)
    order: list[tuple[str, int, int]] = field(default_factory=list)


class _Weights:
    """The weights of a network in float64, each group's channels on an axis of their own, with the groups' products."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.groups = groups
        own = dict(model.named_parameters())
        self.tensors: dict[str, Tensor] = {}
        for group in groups:
            for member in group.members:
                tensor = self.tensors.get(member.name, own[member.name].detach().double())
                if member.axis == 1:  # a flattened map: its places are an axis behind the channels
                    tensor = tensor.unflatten(1, (group.size, -1))
                self.tensors[member.name] = tensor
        self.counts = {g.name: torch.ones(g.size, dtype=torch.float64) for g in groups}
        self.products = {g.name: self._product(g) for g in groups}
        self.sharing: dict[str, list[tuple[Group, int]]] = {}
        for group in groups:
            for member in group.members:
                self.sharing.setdefault(member.name, []).append((group, member.axis))

    def rows(self, name: str, axis: int) -> Tensor:
        return (
            self.tensors[name].movedim(axis, 0).flatten(1)
            if self.tensors[name].ndim > 1
            else self.tensors[name][:, None]
        )

    def _product(self, group: Group) -> Tensor:
        parts = [self.rows(m.name, m.axis) for m in group.members]
        return sum((p @ p.T for p in parts), torch.zeros((), dtype=torch.float64))

    def distances(self, group: Group) -> Tensor:
        product = self.products[group.name]
        squares = product.diagonal().clone()
        found = product.mul(-2).add_(squares[:, None]).add_(squares)
        # what rounding leaves of equal channels is zero
        return found.masked_fill_(found <= 1e-13 * squares.max(), 0.0)

    def merge(self, group: Group, i: int, j: int) -> None:
        """Channel j goes into channel i."""
        counts = self.counts[group.name]
        share = counts[i] / (counts[i] + counts[j])
        for member in group.members:
            tensor = self.tensors[member.name]
            first, second = tensor.select(member.axis, i), tensor.select(member.axis, j)
            new = share * first + (1 - share) * second if member.role == "writes" else first + second
            for other, axis in self.sharing[member.name]:
                if other.name == group.name or tensor.ndim < 2:
                    continue
                change = [v.movedim(axis - (axis > member.axis), 0).flatten(1) for v in (first, second, new)]
                update = change[2] @ change[2].T - change[0] @ change[0].T - change[1] @ change[1].T
                self.products[other.name] = self.products[other.name] + update
            tensor = tensor.clone()
            tensor.select(member.axis, i).copy_(new)
            kept = torch.arange(tensor.shape[member.axis]) != j
            self.tensors[member.name] = tensor.movedim(member.axis, 0)[kept].movedim(0, member.axis)
        counts[i] += counts[j]
        kept = torch.arange(len(counts)) != j
        self.counts[group.name] = counts[kept]
        # the merged channel's row, from its new weights
        product = self.products[group.name][kept][:, kept]
        place = i - (j < i)
        parts = [self.rows(m.name, m.axis) for m in group.members]
        row = sum((p @ p[place] for p in parts), torch.zeros((), dtype=torch.float64))
        product[place], product[:, place] = row, row
        self.products[group.name] = product


def channel_distances(model: nn.Module, group: Group) -> Float[Tensor, "channels channels"]:
    r"""Squared distances \(\|w_i - w_j\|^2\) between a group's channels, each the vector of all its weights in and out.

    Biases count as weights in.
    """
    return _Weights(model, [group]).distances(group)


def iterative_merge(
    model: nn.Module, beta: float, max_ratio: float | int = 1.0, groups: Sequence[Group] | None = None
) -> tuple[nn.Module, MergeReport]:
    r"""A narrower copy: in each group, in turn, the closest two channels become one, as long as they are close enough.

    Close enough is \(d_\min \le \beta\, d_\max\), over the pairs of a group as it is now. The merged channel is written
    with the mean of the two (weighted by how many channels each stands for) and read with their sum: duplicates merge
    without any change of the answer.

    Args:
        model: normalizations folded; left as found.
        beta: in [0, 1): 0 merges exact duplicates only.
        max_ratio: the largest share of a group's channels that may go.
        groups: which groups; by default all that `channel_groups` finds.

    Returns:
        The copy, and what happened.

    Raises:
        ValueError: β outside [0, 1), a share outside [0, 1], no group, or what `channel_groups` raises.

    Source: Chen, Zhou and Yan, Going Beyond Neural Network Feature Similarity (2024), algorithm 1.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta} is a share of the largest distance, in [0, 1)")
    if not 0 <= max_ratio <= 1:
        raise ValueError(f"max_ratio={max_ratio} is a share of the channels, in [0, 1]")
    groups = channel_groups(model) if groups is None else groups
    if not groups:
        raise ValueError("the network has no group of channels between its inputs and its outputs")
    weights = _Weights(model, groups)
    report = MergeReport(
        {g.name: g.size for g in groups}, {}, {g.name: [[c] for c in range(g.size)] for g in groups},
        (sum(p.numel() for p in model.parameters()), 0),
    )  # fmt: skip
    neighbours = {g.name: {other.name for m in g.members for other, _ in weights.sharing[m.name]} for g in groups}
    open_groups = set(report.before)  # whose distances changed since no pair of theirs was close enough
    while open_groups:
        for group in groups:
            if group.name not in open_groups:
                continue
            open_groups.discard(group.name)
            clusters = report.clusters[group.name]
            if len(clusters) < 2 or group.size - len(clusters) + 1 > max_ratio * group.size:
                continue
            pair = _closest(weights.distances(group), beta)
            if pair is None:
                continue
            i, j = pair
            report.order.append((group.name, clusters[i][0], clusters[j][0]))
            weights.merge(group, i, j)
            clusters[i] = clusters[i] + clusters.pop(j)
            open_groups |= neighbours[group.name]
    report.after = {name: len(c) for name, c in report.clusters.items()}
    narrow = _rebuilt(model, weights)
    report.parameters = (report.parameters[0], sum(p.numel() for p in narrow.parameters()))
    return narrow, report


def _closest(distances: Tensor, beta: float) -> tuple[int, int] | None:
    """The closest pair i < j, if it is close enough."""
    largest = distances.max()
    flat = distances.clone()
    flat.fill_diagonal_(torch.inf)
    place = int(flat.argmin())
    i, j = sorted(divmod(place, len(flat)))
    return (i, j) if bool(flat[i, j] <= beta * largest) else None


def _rebuilt(model: nn.Module, weights: _Weights) -> nn.Module:
    """A copy with the weights' present sizes."""
    narrow = copy.deepcopy(model)
    for name, tensor in weights.tensors.items():
        owner_name, _, attribute = name.rpartition(".")
        owner: Any = narrow.get_submodule(owner_name)
        old = getattr(owner, attribute)
        flat = tensor.flatten(1, 2) if tensor.ndim == old.ndim + 1 else tensor
        setattr(owner, attribute, nn.Parameter(flat.to(old.dtype).contiguous(), requires_grad=old.requires_grad))
        if attribute != "weight":
            continue
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = flat.shape
        elif owner.groups > 1:
            owner.groups = owner.in_channels = owner.out_channels = flat.shape[0]
        else:
            owner.out_channels, owner.in_channels = flat.shape[0], flat.shape[1]
    return narrow


def feature_complexity(model: nn.Module, betas: Sequence[float]) -> dict[float, dict[str, int]]:
    """How many channels each group needs, for several β: the fewer, the more of its features are equivalent.

    Raises:
        ValueError: what `iterative_merge` raises.
    """
    groups = channel_groups(model)
    return {beta: iterative_merge(model, beta, groups=groups)[1].after for beta in betas}
