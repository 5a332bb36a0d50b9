r"""Sort the channels of every head and group what is alike: one scale for channels of one size (Quamba2).

The size of a channel of Mamba-2's x hardly depends on the text. So the channels of each head are sorted by size, heads
with alike profiles are put together, and the places of a group of heads are cut into runs: each run gets a scale.
The heads of one SSD group share B and C, and so stay together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Clusters", "cut_in_runs", "sort_and_cluster"]


@dataclass(frozen=True)
class Clusters:
    """A new order of heads and channels, and which scale each channel takes.

    Attributes:
        heads: the old number of the head at each place.
        channels: the old number of the channel at each place; those of one head stay together.
        scale_of: for each place, the number of its scale.
    """

    heads: Int[Tensor, " heads"]
    channels: Int[Tensor, " channels"]
    scale_of: Int[Tensor, " channels"]

    @property
    def num_scales(self) -> int:
        """How many scales there are."""
        return int(self.scale_of.max()) + 1


def sort_and_cluster(
    magnitudes: Float[Tensor, " channels"], num_groups: int, head_size: int, groups: tuple[int, int] = (4, 4)
) -> Clusters:
    """Sort channels within heads, then group heads and places.

    Heads are grouped by Ward's method on their sorted profiles, each of norm one; then the places 0 … head_size − 1 of
    a group of heads are cut into runs (`cut_in_runs`).

    Args:
        magnitudes: of each channel, head by head.
        num_groups: SSD groups: equal runs of heads.
        groups: groups of heads in an SSD group, and runs of places in a group of heads; fewer where there are fewer.

    Raises:
        ValueError: channels that are no multiple of `head_size`, SSD groups that do not divide the heads, groups below
            one, or magnitudes that are negative or not finite.

    Source: Chiang et al., "Quamba2: A Robust and Scalable Post-training Quantization Framework for Selective State
    Space Models", 2025, section 4.2.
    """
    count = len(magnitudes)
    if head_size < 1 or count % head_size:
        raise ValueError(f"{count} channels are no whole number of heads of head_size={head_size}")
    heads = count // head_size
    if num_groups < 1 or heads % num_groups:
        raise ValueError(f"num_groups={num_groups} does not divide the {heads} heads")
    if min(groups) < 1:
        raise ValueError(f"groups={groups}: at least one group of heads and one run of places")
    if not bool(torch.isfinite(magnitudes).all()) or bool((magnitudes < 0).any()):
        raise ValueError("magnitudes are finite and not negative")
    sizes, order = magnitudes.detach().double().cpu().view(num_groups, -1, head_size).sort(-1)
    numbers = torch.arange(count).view(num_groups, -1, head_size).gather(-1, order)
    new_heads, new_channels, scale_of, scales = [], [], [], 0
    for group in range(num_groups):
        profiles = sizes[group] / sizes[group].norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        labels = _group_heads(profiles.numpy(), groups[0])
        for label in range(labels.max() + 1):
            members = torch.from_numpy(np.flatnonzero(labels == label))
            runs = cut_in_runs(profiles[members].numpy().T, groups[1])
            new_heads.append(members + group * len(labels))
            new_channels.append(numbers[group, members].flatten())
            scale_of.append((torch.from_numpy(runs) + scales).repeat(len(members)))
            scales += int(runs.max()) + 1
    return Clusters(torch.cat(new_heads), torch.cat(new_channels), torch.cat(scale_of))


def _group_heads(profiles: np.ndarray, groups: int) -> np.ndarray:
    """Labels of the heads; those with the smallest profile's end first, so that the order is fixed."""
    if len(profiles) <= groups:
        return np.arange(len(profiles))
    if groups == 1:
        return np.zeros(len(profiles), dtype=np.int64)
    from scipy.cluster import hierarchy

    labels = hierarchy.fcluster(hierarchy.ward(profiles), groups, "maxclust")
    return np.unique(labels, return_inverse=True)[1]


def cut_in_runs(points: np.ndarray, runs: int) -> np.ndarray:
    """Cut a sequence of points into runs with the least sum of squares around the runs' means.

    This is k-means whose clusters are runs, solved exactly by dynamic programming.

    Args:
        points: (places, coordinates).
        runs: how many; fewer where there are fewer places.

    Returns:
        the run of each place.

    >>> cut_in_runs(np.array([[0.0], [0.1], [5.0], [5.1], [9.0]]), 3).tolist()
    [0, 0, 1, 1, 2]
    """
    places = len(points)
    runs = min(runs, places)
    sums = np.concatenate((np.zeros((1, points.shape[1])), points.cumsum(0)))
    squares = np.concatenate(([0.0], (points**2).sum(1).cumsum()))
    start, end = np.triu_indices(places + 1, 1)
    cost = np.full((places + 1, places + 1), np.inf)
    spread = squares[end] - squares[start] - ((sums[end] - sums[start]) ** 2).sum(1) / (end - start)
    cost[start, end] = np.maximum(spread, 0.0)
    best = cost[0].copy()  # best[e]: of the first e places, in as many runs as were cut so far
    cuts = []
    for _ in range(runs - 1):
        whole = best[:, None] + cost
        cuts.append(whole.argmin(0))
        best = whole.min(0)
    labels = np.empty(places, dtype=np.int64)
    right = places
    for run in range(runs - 1, -1, -1):
        left = int(cuts[run - 1][right]) if run else 0
        labels[left:right] = run
        right = left
    return labels
