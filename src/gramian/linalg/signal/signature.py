"""Signatures: the iterated integrals of a path, to a depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MOST_FEATURES", "chen", "level_sizes", "segment_signature", "signature", "signature_size"]

MOST_FEATURES = 1_000_000
"""More features than this are refused: their number grows with the power of the depth."""


def level_sizes(channels: int, depth: int) -> tuple[int, ...]:
    """Features of the levels 1 … depth: channels, channels², …

    >>> level_sizes(3, 4)
    (3, 9, 27, 81)
    """
    return tuple(channels**level for level in range(1, depth + 1))


def signature_size(channels: int, depth: int) -> int:
    """Features of all levels.

    Raises:
        ValueError: sizes below 1, or more features than `MOST_FEATURES`.
    """
    if channels < 1 or depth < 1:
        raise ValueError(f"channels={channels} and depth={depth} must be at least 1")
    size = sum(level_sizes(channels, depth))
    if size > MOST_FEATURES:
        raise ValueError(
            f"{channels} channels at depth {depth} give {size} features, more than {MOST_FEATURES}; lower depth="
        )
    return size


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return (left[..., :, None] * right[..., None, :]).flatten(-2)


def segment_signature(steps: Float[Tensor, "*batch channels"], depth: int) -> tuple[Float[Tensor, "*batch _"], ...]:
    r"""Levels of the signature of straight lines: \(v^{\otimes k} / k!\)."""
    levels = [steps]
    for level in range(2, depth + 1):
        levels.append(_outer(levels[-1], steps) / level)
    return tuple(levels)


def chen(
    first: tuple[Float[Tensor, "*batch _"], ...], second: tuple[Float[Tensor, "*batch _"], ...]
) -> tuple[Float[Tensor, "*batch _"], ...]:
    r"""Levels of the signature of one path followed by another: \(S_k = \sum_{i \le k} S'_i \otimes S''_{k-i}\)."""
    found = []
    for level in range(len(first)):
        total = first[level] + second[level]
        for part in range(level):
            total = total + _outer(first[part], second[level - 1 - part])
        found.append(total)
    return tuple(found)


def signature(
    path: Float[Tensor, "batch length channels"], depth: int, stream: bool = False
) -> Float[Tensor, "batch features"] | Float[Tensor, "batch steps features"]:
    r"""Iterated integrals of piecewise linear paths, level after level, without the constant one.

    \(S_{i_1 \dots i_k} = \int_{t_1 < \dots < t_k} dx_{i_1} \dots dx_{i_k}\). Segments are joined by Chen's identity in
    a doubling scan: log₂(length) rounds over all steps at once, differentiable.

    Args:
        path: points; only differences count.
        depth: the longest integral.
        stream: return the signatures of all prefixes, of 2, 3, … points.

    Returns:
        (batch, features), or with `stream` (batch, length − 1, features).

    Raises:
        ValueError: a path of one point, NaN, too many features.

    Source: Chen (1957); Lyons, Caruana and Lévy, "Differential Equations Driven by Rough Paths" (2007), chapter 2.

    >>> corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    >>> signature(corner, 2)  # x first, then y: ∫∫ dx dy = 1, ∫∫ dy dx = 0
    tensor([[1.0000, 1.0000, 0.5000, 1.0000, 0.0000, 0.5000]])
    """
    signature_size(path.shape[-1], depth)
    if path.shape[1] < 2:
        raise ValueError(f"a path needs at least 2 points, got {path.shape[1]}")
    if not bool(torch.isfinite(path.detach()).all()):
        raise ValueError("the path holds NaN or infinity; remove those points first")
    levels = segment_signature(path.diff(dim=1), depth)
    if stream:
        reach = 1
        while reach < levels[0].shape[1]:
            joined = chen(tuple(x[:, :-reach] for x in levels), tuple(x[:, reach:] for x in levels))
            levels = tuple(torch.cat([x[:, :reach], j], 1) for x, j in zip(levels, joined, strict=True))
            reach *= 2
        return torch.cat(levels, -1)
    while (steps := levels[0].shape[1]) > 1:
        even = steps - steps % 2
        joined = chen(tuple(x[:, 0:even:2] for x in levels), tuple(x[:, 1:even:2] for x in levels))
        levels = tuple(torch.cat([j, x[:, even:]], 1) for x, j in zip(levels, joined, strict=True))
    return torch.cat(levels, -1)[:, 0]
