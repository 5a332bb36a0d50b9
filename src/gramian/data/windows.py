"""A series as training, validation and test parts, and each part as windows of past and future."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Split", "split_series", "windows"]


@dataclass(frozen=True)
class Split:
    """Three parts of one series, standardized by the first.

    Validation and test begin `look_back` rows before their own first row, so that it can be forecast.

    Attributes:
        mean, std: of the training part's channels; ``values * std + mean`` are the original units.
    """

    train: Float[Tensor, "train channels"]
    validation: Float[Tensor, "validation channels"]
    test: Float[Tensor, "test channels"]
    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]


def split_series(
    values: Float[np.ndarray, "length channels"],
    look_back: int,
    parts: Sequence[float | int] = (0.7, 0.1, 0.2),
) -> Split:
    """Cut a series in time into training, validation and test, and standardize all by the training part.

    Args:
        values: rows in the order of time.
        look_back: rows that a forecast reads.
        parts: three shares of the length that sum to at most 1 (training and test rounded down, validation what is
            between), or three numbers of rows.

    Returns:
        float32 parts; a channel that is constant in training is centred only.

    Raises:
        ValueError: NaN or infinity, parts that do not fit, or a part too short for one look-back.

    >>> parts = split_series(np.arange(20.0)[:, None], 4, (10, 5, 5))
    >>> len(parts.train), len(parts.validation), len(parts.test)
    (10, 9, 9)
    """
    if not np.isfinite(values).all():
        raise ValueError("the series has NaN or infinity; fill the gaps first (for example by interpolation)")
    if look_back < 1:
        raise ValueError(f"look_back={look_back} must be at least 1")
    length = len(values)
    if len(parts) != 3 or min(parts) <= 0:
        raise ValueError(f"parts={tuple(parts)}: give three positive shares, or three numbers of rows")
    if all(p < 1 for p in parts):
        if sum(parts) > 1 + 1e-9:
            raise ValueError(f"parts={tuple(parts)} sum to {sum(parts):g}, which is more than the whole series")
        train, test = int(length * parts[0]), int(length * parts[2])
        end = length if sum(parts) > 1 - 1e-9 else int(length * sum(parts))
        validation = end - train - test
    else:
        if any(p != int(p) for p in parts):
            raise ValueError(f"parts={tuple(parts)}: shares are all below 1, numbers of rows are all whole")
        train, validation, test = (int(p) for p in parts)
    total = train + validation + test
    if total > length or train <= look_back or min(validation, test) < 1:
        raise ValueError(
            f"a series of {length} rows cannot give {train} + {validation} + {test} rows, look-back {look_back}"
        )
    mean, std = values[:train].mean(0), values[:train].std(0)
    std = np.where(std > 0, std, 1.0)
    scaled = torch.from_numpy(((values[:total] - mean) / std).astype(np.float32))
    return Split(
        scaled[:train],
        scaled[train - look_back : train + validation],
        scaled[train + validation - look_back :],
        torch.from_numpy(mean),
        torch.from_numpy(std),
    )


def windows(
    values: Float[Tensor, "length channels"], look_back: int, horizon: int, stride: int = 1
) -> tuple[Float[Tensor, "windows {look_back} channels"], Float[Tensor, "windows {horizon} channels"]]:
    """All windows of `look_back` rows and the `horizon` rows after each, as views that take no memory.

    Args:
        stride: rows from one window to the next.

    Raises:
        ValueError: a size below 1, or a series shorter than one window.

    >>> past, future = windows(torch.arange(5.0)[:, None], 2, 1)
    >>> past[..., 0], future[..., 0]
    (tensor([[0., 1.],
            [1., 2.],
            [2., 3.]]), tensor([[2.],
            [3.],
            [4.]]))
    """
    if min(look_back, horizon, stride) < 1:
        raise ValueError(f"{look_back=}, {horizon=} and {stride=} must all be at least 1")
    if len(values) < look_back + horizon:
        raise ValueError(
            f"{len(values)} rows hold no window of {look_back} + {horizon}; give a longer series, or shorter windows"
        )
    both = values.unfold(0, look_back + horizon, stride).mT
    return both[:, :look_back], both[:, look_back:]
