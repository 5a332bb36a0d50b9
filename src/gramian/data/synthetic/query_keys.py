r"""Queries with sets of keys, and targets that do not depend on the order of the keys."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["TARGETS", "query_keys", "target"]

TARGETS = ("square", "correlation", "rectified")


def query_keys(
    samples: int, keys: int, features: int, generator: torch.Generator | None = None
) -> Float[Tensor, "samples tokens features"]:
    """Tokens uniform on the sphere of radius √features; the first of each sample is its query.

    Raises:
        ValueError: sizes below 1.
    """
    if min(samples, keys, features) < 1:
        raise ValueError(f"samples={samples}, keys={keys}, features={features} must be at least 1")
    drawn = torch.randn(samples, keys + 1, features, generator=generator, dtype=torch.float64)
    return drawn * math.sqrt(features) / drawn.norm(dim=2, keepdim=True)


def target(
    x: Float[Tensor, "samples tokens features"], direction: Float[Tensor, " features"], kind: str
) -> Float[Tensor, " samples"]:
    r"""A function of the query \(x_0\) and the set of keys, with a hidden unit vector β.

    ``square``: \(\frac1N \sum_i \langle\beta, x_i\rangle^2\), which needs no query; ``correlation``:
    \(\frac1N \sum_i c_i \langle\beta, x_i\rangle\) with \(c_i = \langle x_0, x_i\rangle / \sqrt d\); ``rectified``: the
    same with \(\mathrm{relu}(c_i)\): the mean of the keys that look like the query.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in TARGETS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(TARGETS)}")
    keys = x[:, 1:]
    along = keys @ direction
    if kind == "square":
        return along.square().mean(1)
    weights = (keys @ x[:, 0, :, None])[..., 0] / math.sqrt(x.shape[2])
    return ((weights.relu() if kind == "rectified" else weights) * along).mean(1)
