r"""How much a model leans on one of two features, against what it should."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["probe_grid", "reliance", "shortcut_bias"]


def probe_grid(points: int = 60, reach: float | int = 3.0) -> Float[Tensor, "probes 2"]:
    """Places (shortcut, core) at even distances over the square from −reach to reach; none has a zero coordinate.

    Raises:
        ValueError: an odd number of points along a side (the middle one would be zero), or a reach not positive.

    >>> probe_grid(2, 1.0).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    if points < 2 or points % 2:
        raise ValueError(f"points={points} must be even and at least 2, so that no probe has a coordinate of zero")
    if not 0 < reach < float("inf"):
        raise ValueError(f"reach={reach} must be positive and finite")
    side = torch.linspace(-float(reach), float(reach), points, dtype=torch.float64)
    return torch.cartesian_prod(side, side)


def reliance(scores: Float[Tensor, " probes"], z: Float[Tensor, "probes 2"]) -> float:
    r"""The mean over probes of \(\tfrac12\operatorname{sign}(f)\,(\operatorname{sign} z_s - \operatorname{sign} z_c)\).

    1/2 where a model decides by the sign of the shortcut alone, −1/2 by that of the core alone (half of the square is
    where they disagree), 0 where it weighs both alike. Scores of exactly zero count as undecided.

    Raises:
        ValueError: scores that are not finite, or no probe.

    Source: our reading of the measure in Hermann, Mobahi, Fel and Mozer, "On the Foundations of Shortcut Learning"
    (2023); its exact form was not found in public.

    >>> grid = probe_grid()
    >>> reliance(grid[:, 0], grid), reliance(grid[:, 1], grid), reliance(grid.sum(1), grid)
    (0.5, -0.5, 0.0)
    """
    if not len(scores) or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"{len(scores)} scores: at least one is needed, and all must be finite")
    decided = scores.sign().to(z.dtype)
    return float((decided * (z[:, 0].sign() - z[:, 1].sign())).mean() / 2)


def shortcut_bias(
    model: Callable[[Tensor], Tensor], optimal: Callable[[Tensor], Tensor], z: Float[Tensor, "probes 2"] | None = None
) -> float:
    """The model's reliance on the shortcut less that of the optimal decision: above zero, it leans too far.

    Args:
        model, optimal: features (probes, 2) → scores (probes,), positive for the class y = 1; a model of inputs is
            given as ``lambda z: model(task.embed(z))``.
        z: where to probe; `probe_grid` by default.
    """
    z = probe_grid() if z is None else z
    return reliance(model(z), z) - reliance(optimal(z), z)
