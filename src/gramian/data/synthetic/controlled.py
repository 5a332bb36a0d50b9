"""Targets that a smooth path controls, both seen at a few times only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

__all__ = ["ControlledRecords", "controlled_records"]

FINE = 401


@dataclass(frozen=True)
class ControlledRecords:
    """Individuals with a path that is seen at some times and a target that is seen at others.

    Attributes:
        times, paths: irregular grids from 0 to 1, and the path there, (points, channels) each.
        y_times, y: where the target was seen, and what was seen.
        fine: the times of `truth`.
        truth: the target without noise.
    """

    times: list[Float[np.ndarray, " _"]]
    paths: list[Float[np.ndarray, "_ channels"]]
    y_times: list[Float[np.ndarray, " _"]]
    y: list[Float[np.ndarray, " _"]]
    fine: Float[np.ndarray, " fine"]
    truth: Float[np.ndarray, "individuals fine"]


def controlled_records(
    individuals: int,
    points: int,
    observations: int,
    rng: np.random.Generator,
    *,
    channels: int = 2,
    noise: float = 0.0,
    linear: bool = False,
    size: float = 0.4,
    field: int = 0,
) -> ControlledRecords:
    r"""Solutions of \(dy = G(y)\,dx\) for cubic splines x through random points; the first entry of y is the target.

    Args:
        points, observations: of the path and of the target for each individual.
        noise: deviation of what is added to the target where it is seen.
        size: deviation of the splines' knots.
        linear: G(y) = A y with a matrix for each channel, else tanh(A y + b).
        field: seed of G.

    Raises:
        ValueError: fewer than one individual or observation, or fewer than two points.
    """
    if individuals < 1 or observations < 1 or points < 2:
        raise ValueError(f"{individuals=} and {observations=} must be at least 1, {points=} at least 2")
    own = np.random.default_rng([field, 17])
    states = 3
    matrices = own.standard_normal((channels, states, states)) * (0.5 if linear else 1.0)
    offset = own.standard_normal((channels, states))
    fine = np.linspace(0.0, 1.0, FINE)
    knots = np.linspace(0.0, 1.0, 4)
    splines = [CubicSpline(knots, rng.standard_normal((4, channels)) * size) for _ in range(individuals)]
    slopes = np.stack([s(fine, 1) for s in splines])

    def field_of(y: np.ndarray) -> np.ndarray:
        found = np.einsum("cij,nj->nci", matrices, y)
        return found if linear else np.tanh(found + offset)

    # Heun's steps over a grid so fine that their error is far below the noise of any reading
    y = np.tile(np.array([1.0, 0.0, 0.5]), (individuals, 1))
    path = [y]
    width = fine[1] - fine[0]
    for step in range(FINE - 1):
        first = np.einsum("nci,nc->ni", field_of(y), slopes[:, step])
        second = np.einsum("nci,nc->ni", field_of(y + width * first), slopes[:, step + 1])
        y = y + 0.5 * width * (first + second)
        path.append(y)
    truth = np.stack(path, 1)[:, :, 0]
    times, paths, y_times, seen = [], [], [], []
    for index, spline in enumerate(splines):
        when = np.concatenate([[0.0], np.sort(rng.uniform(0, 1, points - 2)), [1.0]])
        at = np.sort(rng.uniform(0, 1, observations))
        times.append(when)
        paths.append(spline(when))
        y_times.append(at)
        seen.append(np.interp(at, fine, truth[index]) + noise * rng.standard_normal(observations))
    return ControlledRecords(times, paths, y_times, seen, fine, truth)
