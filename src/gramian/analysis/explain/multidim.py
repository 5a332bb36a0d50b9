r"""Features of more than one dimension: groups of directions that only make sense together, and circles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "Cluster",
    "broken_neighbours",
    "circular_order",
    "cluster_decoder",
    "mixture_index",
    "rank_clusters",
    "separability",
]


def cluster_decoder(
    decoder: Float[Tensor, "features width"],
    method: Literal["graph", "spectral"] = "graph",
    *,
    neighbours: int = 2,
    threshold: float = 0.5,
    clusters: int = 8,
    largest: int = 1000,
    seed: int = 0,
) -> list[Int[Tensor, " members"]]:
    r"""Group directions that lie close together.

    ``"graph"`` joins each direction with its `neighbours` nearest ones of cosine over `threshold`; groups are the
    connected components. ``"spectral"`` clusters with the similarity \(1 - \arccos(\cos)/\pi\).

    Returns:
        groups of 2 to `largest` members, the largest first.

    Raises:
        ValueError: an unknown method, fewer than three directions, a direction of length zero, or a setting out of
            range.

    Source: Engels et al., Not All Language Model Features Are Linear (2024), section 4.
    """
    if method not in ("graph", "spectral"):
        raise ValueError(f"method={method!r} is neither 'graph' nor 'spectral'")
    count = len(decoder)
    fits = 1 <= neighbours < count if method == "graph" else 2 <= clusters <= count
    if count < 3 or not fits or not -1 <= threshold < 1:
        raise ValueError(
            f"{count} directions, neighbours={neighbours}, threshold={threshold}, clusters={clusters}: take three "
            "directions at least, neighbours and clusters below their number, a cosine as threshold"
        )
    lengths = decoder.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise ValueError("a direction has length zero: leave dead features out")
    unit = (decoder / lengths).detach().double().cpu()
    cosines = (unit @ unit.T).clamp(-1, 1)
    if method == "graph":
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        cosines.fill_diagonal_(-2.0)
        values, places = cosines.topk(neighbours, dim=1)
        rows, columns = torch.nonzero(values > threshold, as_tuple=True)
        ends = places[rows, columns]
        graph = coo_array((torch.ones(len(rows)).numpy(), (rows.numpy(), ends.numpy())), shape=(count, count))
        labels = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    else:
        from sklearn.cluster import SpectralClustering

        similarity = 1 - cosines.arccos() / math.pi
        model = SpectralClustering(clusters, affinity="precomputed", random_state=seed)
        labels = torch.from_numpy(model.fit_predict(((similarity + similarity.T) / 2).numpy())).long()
    groups = [torch.nonzero(labels == label).flatten() for label in range(int(labels.max()) + 1)]
    return sorted((g for g in groups if 2 <= len(g) <= largest), key=len, reverse=True)


def _planar(points: Tensor) -> Tensor:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points are (samples, 2): a feature is tested in a plane, got {tuple(points.shape)}")
    if len(points) < 100:
        raise ValueError(f"{len(points)} points are too few for an index of a distribution: give at least 100")
    x = points.detach().double()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("the points hold NaN or infinite numbers")
    if bool((x.var(0).sum() == 0).item()):
        raise ValueError("all points are the same")
    return x


def separability(points: Float[Tensor, "samples 2"], angles: int = 100, bins: int = 10) -> float:
    r"""The least mutual information, in bits, between the two coordinates of a planar feature over all rotations.

    Zero where some rotation makes the coordinates independent: then the feature is two features. Estimated from a
    histogram of `bins` × `bins`, whose cells span each coordinate's range, at `angles` rotations of a quarter turn
    (further ones only swap and mirror the axes). The histogram adds about \((\text{bins}-1)^2 / (2 n \ln 2)\) bits.

    Raises:
        ValueError: not planar, fewer than 100 points, NaN, or all the same.

    Source: Engels et al. (2024), section 3, the separability index.
    """
    x = _planar(points)
    if angles < 1 or bins < 2:
        raise ValueError(f"angles={angles}, bins={bins}: one rotation and two bins at least")
    x = x - x.mean(0)
    turns = torch.arange(angles, dtype=x.dtype) * (math.pi / 2 / angles)
    first = torch.outer(turns.cos(), x[:, 0]) + torch.outer(turns.sin(), x[:, 1])
    second = torch.outer(turns.cos(), x[:, 1]) - torch.outer(turns.sin(), x[:, 0])
    cells = _cell(first, bins) * bins + _cell(second, bins) + torch.arange(angles)[:, None] * bins**2
    counts = torch.bincount(cells.flatten(), minlength=angles * bins**2).view(angles, bins, bins).double()
    joint = counts / len(x)
    product = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    information = torch.where(joint > 0, joint * (joint / product.clamp(min=1e-300)).log2(), 0.0).sum((1, 2))
    return max(0.0, float(information.min()))


def _cell(x: Tensor, bins: int) -> Tensor:
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return ((x - low) / (high - low).clamp(min=1e-300) * bins).long().clamp(max=bins - 1)


def mixture_index(
    points: Float[Tensor, "samples 2"], epsilon: float = 0.1, angles: int = 90, offsets: int = 400
) -> float:
    r"""The largest share of points that some direction sees at (nearly) one value.

    \[ M_\epsilon = \max_{v, c}\; P\bigl(|v\cdot f + c| < \epsilon \sqrt{E[(v\cdot f + c)^2]}\bigr). \]

    Large where the feature is a mixture of lower-dimensional ones, such as lines that are never present together:
    the direction across one of them sees zero whenever the other is absent. Searched on a grid of `angles`
    directions and `offsets` values of c, which finds the optimum where gradient ascent from one start may not.

    Raises:
        ValueError: not planar, fewer than 100 points, NaN, all the same, or ε outside (0, 1).

    Source: Engels et al. (2024), section 3, the ε-mixture index.
    """
    x = _planar(points)
    if not 0 < epsilon < 1 or angles < 1 or offsets < 2:
        raise ValueError(f"epsilon={epsilon} must lie in (0, 1), angles={angles} and offsets={offsets} be positive")
    turns = torch.arange(angles, dtype=x.dtype) * (math.pi / angles)
    seen = (torch.outer(turns.cos(), x[:, 0]) + torch.outer(turns.sin(), x[:, 1])).sort(1).values
    low, high = seen[:, :1], seen[:, -1:]
    shares = torch.linspace(-0.1, 1.1, offsets, dtype=x.dtype)
    centres = low + (high - low) * shares  # the value −c around which points are counted
    centres = torch.cat((centres, torch.zeros(angles, 1, dtype=x.dtype)), 1)
    spread = (seen.square().mean(1, keepdim=True) - 2 * centres * seen.mean(1, keepdim=True) + centres.square()).clamp(
        min=0
    )
    reach = epsilon * spread.sqrt()
    inside = torch.searchsorted(seen, centres + reach) - torch.searchsorted(seen, centres - reach, right=True)
    return float(inside.clamp(min=0).max()) / len(x)


@dataclass(frozen=True)
class Cluster:
    """A group of directions, seen in the plane in which it looks most like one feature of two dimensions.

    Attributes:
        members: the directions.
        plane: which principal components: (plane, plane + 1).
        separability, mixture: the indices in that plane.
        score: (1 − mixture) · separability.
        points: (samples, 2): the group's part of the samples in which it is present.
    """

    members: Int[Tensor, " members"]
    plane: int
    separability: float
    mixture: float
    score: float
    points: Float[Tensor, "samples 2"]


def rank_clusters(
    codes: Float[Tensor, "samples features"],
    decoder: Float[Tensor, "features width"],
    clusters: Sequence[Int[Tensor, " _"]],
    *,
    components: int = 5,
    flatness: float = 0.1,
) -> list[Cluster]:
    """Score groups of directions by how irreducible what they write together is; the highest score first.

    Each sample in which any member fires is rebuilt from the members alone, these points are brought to their
    principal components, and the planes of components (1, 2), (2, 3), … are tested. A plane whose second axis has
    less than `flatness` of the first's variance is left out: the points are a line there, a little bent by how the
    members share it, and the indices, which know no scale, would take the bend for a second dimension.

    Args:
        codes: how much of each direction every sample holds (of a sparse autoencoder).
        decoder: the directions.
        clusters: groups to score, of `cluster_decoder`; those that fire in fewer than 100 samples, or only along
            lines, are left out.
        components: how many to look at.
        flatness: least ratio of the variances of a plane's two axes.

    Raises:
        ValueError: a group of one direction, or one that is not there.

    Source: Engels et al. (2024), section 4.
    """
    found = []
    for members in clusters:
        if len(members) < 2 or int(members.max()) >= len(decoder) or int(members.min()) < 0:
            raise ValueError(f"a group {members.tolist()} of {len(decoder)} directions: two members at least")
        own = codes[:, members]
        own = own[(own > 0).any(1)]
        if len(own) < 100:
            continue
        points = (own @ decoder[members]).detach().double()
        points = points - points.mean(0)
        _, sizes, axes = torch.linalg.svd(points, full_matrices=False)
        rank = min(components, int((sizes > 1e-6 * sizes[0]).sum()))
        best: Cluster | None = None
        for plane in range(rank - 1):
            if float(sizes[plane + 1] / sizes[plane]) ** 2 < flatness:
                continue
            flat = points @ axes[plane : plane + 2].T
            s, m = separability(flat), mixture_index(flat)
            if best is None or (1 - m) * s > best.score:
                best = Cluster(members, plane, s, m, (1 - m) * s, flat)
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda c: c.score, reverse=True)


def circular_order(points: Float[Tensor, "items width"]) -> Int[Tensor, " items"]:
    """The items in the order in which they stand around their mean, in the plane of their first two components.

    Raises:
        ValueError: fewer than three items, or all on a line.
    """
    if len(points) < 3:
        raise ValueError(f"{len(points)} items have no circular order: give three at least")
    x = points.detach().double()
    x = x - x.mean(0)
    left, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    if len(sizes) < 2 or float(sizes[1]) <= 1e-9 * float(sizes[0]):
        raise ValueError("the items lie on a line: there is no plane to order them in")
    plane = left[:, :2] * sizes[:2]
    return torch.atan2(plane[:, 1], plane[:, 0]).argsort()


def broken_neighbours(order: Int[Tensor, " items"]) -> int:
    """How many neighbours in a circular order are not neighbours in the cycle 0, 1, …, n − 1, 0.

    Zero for the cycle in either direction from any start; two where two neighbours are swapped.

    >>> broken_neighbours(torch.tensor([2, 1, 0, 3])), broken_neighbours(torch.tensor([1, 0, 2, 3, 4]))
    (0, 2)
    """
    steps = (order.roll(-1) - order).abs()
    return int(((steps != 1) & (steps != len(order) - 1)).sum())
