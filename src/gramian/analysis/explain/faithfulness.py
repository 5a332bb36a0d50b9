r"""Is a heat map what the network goes by? Delete the hottest places first, or bring them back first, and look.

A map that shows what a class score rests on lets the score fall early when its hottest places are taken away
(deletion), and rise early when they alone are shown (insertion). The area under the first curve is to be small,
under the second large.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Curves", "blurred", "deletion_insertion", "occlusion_map"]


@dataclass(frozen=True)
class Curves:
    r"""The class's probability with a share of the places taken away, or brought back, hottest first.

    Attributes:
        shares: from 0 to 1.
        deletion, insertion: one row a picture.
    """

    shares: Float[Tensor, " points"]
    deletion: Float[Tensor, "batch points"]
    insertion: Float[Tensor, "batch points"]

    @property
    def deletion_area(self) -> Float[Tensor, " batch"]:
        """Mean probability while the hottest places go: small for a faithful map."""
        return torch.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Float[Tensor, " batch"]:
        """Mean probability while the hottest places come: large for a faithful map."""
        return torch.trapezoid(self.insertion, self.shares)


def deletion_insertion(
    model: nn.Module,
    x: Float[Tensor, "batch channels height width"],
    heat: Float[Tensor, "batch height width"],
    labels: Int[Tensor, " batch"],
    *,
    points: int = 16,
    without: Float[Tensor, "batch channels height width"] | None = None,
    at_once: int = 32,
) -> Curves:
    r"""The curves of one map a picture.

    Args:
        model: from pictures to class scores, in evaluation mode; softmax makes probabilities of them.
        heat: the larger, the earlier; ties go by place.
        labels: the class that each picture's map is about.
        points: into how many equal steps the places are cut.
        without: what stands where a place is taken away; by default the picture blurred (`blurred`).
        at_once: pictures a pass.

    Raises:
        ValueError: shapes that do not fit, a map that is not finite, or fewer than one step.

    Source: Petsiuk, Das and Saenko, RISE (2018), section 4.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.tensor([[9.0, 0, 0, 0], [0, 0, 0, 0]]))
    >>> x, label = torch.ones(1, 1, 2, 2), torch.tensor([0])
    >>> heat = torch.tensor([[[1.0, 0.5], [0.2, 0.1]]])
    >>> found = deletion_insertion(net, x, heat, label, points=4, without=torch.zeros_like(x))
    >>> found.deletion.round(decimals=1), found.insertion.round(decimals=1)
    (tensor([[1.0000, 0.5000, 0.5000, 0.5000, 0.5000]]), tensor([[0.5000, 1.0000, 1.0000, 1.0000, 1.0000]]))
    """
    if x.ndim != 4 or heat.shape != (len(x), *x.shape[2:]) or labels.shape != (len(x),):
        raise ValueError(
            f"pictures {tuple(x.shape)}, maps {tuple(heat.shape)} and labels {tuple(labels.shape)}: one map of a "
            "picture's size and one label a picture are needed"
        )
    if not bool(torch.isfinite(heat).all()):
        raise ValueError("the maps hold NaN or infinity: there is no order to take places away in")
    if points < 1:
        raise ValueError(f"points={points}: at least one step is needed")
    without = blurred(x) if without is None else without
    if without.shape != x.shape:
        raise ValueError(f"without has shape {tuple(without.shape)}, the pictures {tuple(x.shape)}")
    places = heat[0].numel()
    rank = heat.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(heat)
    shares = torch.linspace(0, 1, points + 1)
    found = []
    for first, then in ((x, without), (without, x)):  # deletion, insertion
        rows = []
        for picture, other, order, label in zip(first, then, rank, labels.tolist(), strict=True):
            changed = order[None] < (shares * places).round().to(order.device)[:, None, None]
            mixed = torch.where(changed[:, None], other[None], picture[None])
            with torch.no_grad():
                scores = torch.cat([model(part) for part in mixed.split(at_once)])
            rows.append(scores.softmax(1)[:, label].cpu())
        found.append(torch.stack(rows))
    return Curves(shares.to(found[0].dtype), *found)


def blurred(x: Float[Tensor, "batch channels height width"], sigma: float = 8.0) -> Float[Tensor, "batch channels h w"]:
    """A Gaussian blur with reflected borders, which leaves colours and takes the things away.

    Args:
        sigma: in pixels.
    """
    radius = min(int(3 * sigma), min(x.shape[2:]) - 1)
    places = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = (-(places**2) / (2 * sigma**2)).exp()
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (radius, radius, radius, radius), mode="reflect")
    x = F.conv2d(x, weights[:, :, :, None], groups=x.shape[1])
    return F.conv2d(x, weights[:, :, None, :], groups=x.shape[1])


def occlusion_map(
    model: nn.Module,
    x: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    *,
    side: int = 32,
    stride: int = 16,
    value: float = 0.0,
    at_once: int = 32,
) -> Float[Tensor, "batch height width"]:
    """How far the class's score falls when a grey square covers a place; the mean over the squares that cover it.

    Args:
        side, stride: of the square, in pixels.
        value: what the square holds; 0 is grey for pictures that are centred.

    Raises:
        ValueError: a square larger than the picture, or steps that leave places uncovered.

    Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014), section 4.2.
    """
    height, width = x.shape[2:]
    if not 1 <= stride <= side <= min(height, width):
        raise ValueError(
            f"side={side}, stride={stride}: 1 ≤ stride ≤ side ≤ {min(height, width)} (the picture) is needed"
        )
    tops, lefts = ([*range(0, size - side, stride), size - side] for size in (height, width))
    corners = [(t, a) for t in tops for a in lefts]
    maps = []
    for picture, label in zip(x, labels.tolist(), strict=True):
        covered = picture.repeat(len(corners), 1, 1, 1)
        for k, (top, left) in enumerate(corners):
            covered[k, :, top : top + side, left : left + side] = value
        with torch.no_grad():
            whole = model(picture[None])[0, label]
            falls = torch.cat([whole - model(part)[:, label] for part in covered.split(at_once)])
        total, times = (torch.zeros(height, width, dtype=x.dtype, device=x.device) for _ in range(2))
        for fall, (top, left) in zip(falls, corners, strict=True):
            total[top : top + side, left : left + side] += fall
            times[top : top + side, left : left + side] += 1
        maps.append(total / times)
    return torch.stack(maps)
