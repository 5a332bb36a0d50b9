"""Intrinsic dimension: how many coordinates the points of a cloud really have."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["intrinsic_dimension", "neighbour_distances"]


def neighbour_distances(
    points: Float[Tensor, "samples features"], neighbours: int, block: int = 1024
) -> Float[Tensor, "samples neighbours"]:
    """Distances of every point to its nearest others, ascending; in blocks of rows, from exact differences.

    Raises:
        ValueError: as many neighbours as points, or NaN.
    """
    if not 1 <= neighbours < len(points):
        raise ValueError(f"neighbours={neighbours} must lie in 1 … {len(points) - 1}: there are {len(points)} points")
    return _nearest(_ready(points), neighbours, block)[0]


def intrinsic_dimension(
    points: Float[Tensor, "samples features"],
    method: Literal["twonn", "mle", "lpca"] = "twonn",
    *,
    trim: float = 0.1,
    neighbours: int = 20,
    explained: float = 0.95,
) -> float:
    r"""An estimate of the dimension of the set that the points lie on.

    ``"twonn"``: with \(\mu = r_2/r_1\) the ratio of the distances to the second and the first neighbour, sorted,
    \(-\log(1 - i/N)\) is d times \(\log\mu_{(i)}\); d is the slope through the origin, without the largest
    `trim` of the ratios. ``"mle"``: the inverse of the mean over the points of the mean of \(\log(r_k/r_j)\) over
    j < k, k = `neighbours`. ``"lpca"``: how many principal
    components explain `explained` of the variance of a point and its neighbours, the mean over the points.

    Args:
        points: rows; a row that repeats another is left out.
        trim: share of the ratios to leave out, 0 … 1 (excluded).
        neighbours: k of ``"mle"`` and ``"lpca"``.
        explained: share of variance, for ``"lpca"``.

    Raises:
        ValueError: fewer than 20 points, more than one in twenty a duplicate, NaN, or a setting out of range.

    Source: Facco et al. (2017), TwoNN; Levina & Bickel (2004) with the averaging of MacKay & Ghahramani, MLE.
    """
    if method not in ("twonn", "mle", "lpca"):
        raise ValueError(f"method={method!r} is not one of 'twonn', 'mle', 'lpca'")
    if not 0 <= trim < 1:
        raise ValueError(f"trim={trim} is a share of the points: in [0, 1)")
    if not 0 < explained <= 1:
        raise ValueError(f"explained={explained} is a share of the variance: in (0, 1]")
    if len(points) < 20:
        raise ValueError(f"{len(points)} points are too few for a dimension: give at least 20")
    x = _ready(points)
    single = torch.unique(x, dim=0)
    if len(single) < 0.95 * len(x):
        raise ValueError(
            f"{len(x) - len(single)} of {len(x)} points repeat others, over 5%: distances of zero tell no dimension. "
            "Remove duplicates, or add the noise that they lack"
        )
    x = x if len(single) == len(x) else single
    count = len(x)
    if method == "twonn":
        first, second = _nearest(x, 2)[0].unbind(1)
        ratios = (second / first).log().sort().values
        kept = count - int(trim * count) if trim > 0 else count - 1  # the last has −log 0
        steps = -torch.log1p(-torch.arange(1, kept + 1, dtype=x.dtype) / count)
        ratios = ratios[:kept].cpu()
        return float((ratios * steps).sum() / ratios.square().sum())
    if not 3 <= neighbours < count:
        raise ValueError(f"neighbours={neighbours} must lie in 3 … {count - 1}")
    distances, places = _nearest(x, neighbours)
    if method == "mle":
        inverse = (distances[:, -1:] / distances[:, :-1]).log().mean(1)
        return float(1 / inverse.mean())
    patches = torch.cat((x[:, None], x[places]), 1)
    values = torch.linalg.svdvals(patches - patches.mean(1, keepdim=True)).square()
    shares = values.cumsum(1) / values.sum(1, keepdim=True)
    return float((shares < explained - 1e-12).sum(1).double().mean() + 1)


def _ready(points: Tensor) -> Tensor:
    if not bool(torch.isfinite(points).all()):
        raise ValueError("the points hold NaN or infinite numbers")
    return points.detach().double()


def _nearest(x: Tensor, neighbours: int, block: int = 1024) -> tuple[Tensor, Tensor]:
    distances, places = [], []
    for begin in range(0, len(x), block):
        # products would lose the small distances, which are the ones that count here
        apart = torch.cdist(x[begin : begin + block], x, compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(len(apart), device=x.device)
        apart[rows, rows + begin] = torch.inf
        found = apart.topk(neighbours, dim=1, largest=False)
        distances.append(found.values)
        places.append(found.indices)
    return torch.cat(distances), torch.cat(places)
