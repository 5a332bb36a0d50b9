"""Seasonal series of several domains, which differ in period, level and shape."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.signal import lfilter

__all__ = ["season_domains"]


def season_domains(
    domains: int,
    length: int,
    rng: np.random.Generator,
    *,
    periods: tuple[float, float] = (8.0, 14.0),
    levels: tuple[float, float] = (4.0, 10.0),
    noise: float = 0.3,
) -> Float[np.ndarray, "{domains} {length}"]:
    """Positive series: a level, a season of two harmonics, and noise that fades over some steps.

    Periods rise and levels fall evenly over the domains; phases are drawn.

    Args:
        noise: deviation of the noise, in units of the season's first harmonic.

    Raises:
        ValueError: fewer than one domain, or a level that the season could carry below zero.
    """
    if domains < 1 or min(levels) <= 2.0:
        raise ValueError(f"domains={domains} must be at least 1, and levels={levels} above 2")
    steps = np.arange(length)
    found = []
    for period, level in zip(np.linspace(*periods, domains), np.linspace(*reversed(levels), domains), strict=True):
        phase = rng.uniform(0, 2 * np.pi, 2)
        season = np.sin(2 * np.pi * steps / period + phase[0]) + 0.4 * np.sin(4 * np.pi * steps / period + phase[1])
        jitter = lfilter([0.8], [1, -0.6], rng.standard_normal(length))
        found.append(np.maximum(level + season + noise * jitter, 0.1))
    return np.stack(found)
