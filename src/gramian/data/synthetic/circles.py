"""Features that live on circles: planted among lines, and what addition in a cycle needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Planted", "circles_and_lines", "modular_addition"]


def modular_addition(period: int) -> tuple[Int[Tensor, "pairs two"], Int[Tensor, " pairs"]]:
    """All pairs (a, b) of numbers below `period`, and (a + b) mod `period`.

    Raises:
        ValueError: a period below two.

    >>> modular_addition(2)[1].tolist()
    [0, 1, 1, 0]
    """
    if period < 2:
        raise ValueError(f"period={period}: a cycle has two numbers at least")
    numbers = torch.arange(period)
    pairs = torch.cartesian_prod(numbers, numbers)
    return pairs, pairs.sum(1) % period


@dataclass(frozen=True)
class Planted:
    """Samples in which a few of many features are present, some of them of two dimensions.

    Attributes:
        samples: (samples, width): the sum of what is present.
        circles: (circles, 2, width): an orthonormal basis of the plane of each circle.
        lines: (lines, width): unit directions.
        present: (samples, circles + lines): the strength of each feature, zero where it is absent.
        angles: (samples, circles): where on its circle each circular feature is.
    """

    samples: Float[Tensor, "samples width"]
    circles: Float[Tensor, "circles 2 width"]
    lines: Float[Tensor, "lines width"]
    present: Float[Tensor, "samples features"]
    angles: Float[Tensor, "samples circles"]


def circles_and_lines(
    count: int,
    width: int = 24,
    circles: int = 2,
    lines: int = 8,
    probability: float = 0.1,
    generator: torch.Generator | None = None,
) -> Planted:
    r"""Sums of sparse features: \(x = \sum_c s_c (\cos\phi_c\, u_c + \sin\phi_c\, v_c) + \sum_l s_l w_l\).

    Each feature is present with `probability`, by itself; strengths are uniform in 0.8 … 1.2 for circles and in
    0.3 … 1.5 for lines, angles uniform. Planes and lines are orthogonal while the width has room for them all, else
    the lines are random unit directions.

    Raises:
        ValueError: no sample, planes that do not fit the width, or a probability outside (0, 1].
    """
    if count < 1 or circles < 0 or lines < 0 or circles + lines < 1:
        raise ValueError(f"count={count}, circles={circles}, lines={lines}: at least one sample and one feature")
    if 2 * circles > width:
        raise ValueError(f"{circles} planes need {2 * circles} axes; width={width}")
    if not 0 < probability <= 1:
        raise ValueError(f"probability={probability} must lie in (0, 1]")
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q.T
    planes = basis[: 2 * circles].view(circles, 2, width)
    free = basis[2 * circles :]
    if lines <= len(free):
        directions = free[:lines]
    else:
        directions = torch.nn.functional.normalize(torch.randn(lines, width, generator=generator), dim=1)
    features = circles + lines
    present = (torch.rand(count, features, generator=generator) < probability).float()
    sizes = torch.rand(count, features, generator=generator)
    sizes = torch.cat((0.8 + 0.4 * sizes[:, :circles], 0.3 + 1.2 * sizes[:, circles:]), 1)
    present = present * sizes
    angles = 2 * math.pi * torch.rand(count, circles, generator=generator)
    turned = torch.stack((angles.cos(), angles.sin()), -1) * present[:, :circles, None]
    samples = torch.einsum("ncp,cpw->nw", turned, planes) + present[:, circles:] @ directions
    return Planted(samples, planes, directions, present, angles)
