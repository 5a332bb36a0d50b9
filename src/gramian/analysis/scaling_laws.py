r"""Laws of activation sparsity: how the share of active neurons changes with the amount of training data.

ReLU networks grow sparser, \(A(D) = A_0 + \exp(b - c D^a)\), \(a, c > 0\); SiLU networks denser,
\(A(D) = A_0 - c / D^a\).

Source: Luo et al., Sparsing Law (2024), section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy
from jaxtyping import Float
from scipy.optimize import least_squares

Kind = Literal["relu", "silu"]
_NAMES = {"relu": ("limit", "a", "b", "c"), "silu": ("limit", "a", "c")}


@dataclass(frozen=True)
class Law:
    """A fitted law.

    Attributes:
        kind: ``"relu"`` (falling) or ``"silu"`` (rising).
        parameters: by name; ``limit`` is what the share tends to with ever more data.
        intervals: 95% bootstrap intervals, by name; empty without resampling.
        residual: root mean square of what the law leaves.
    """

    kind: Kind
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    residual: float

    def __call__(self, amount: Float[numpy.ndarray, " points"]) -> Float[numpy.ndarray, " points"]:
        """The share of active neurons after training on `amount` of data."""
        return _value(self.kind, numpy.array([self.parameters[n] for n in _NAMES[self.kind]]), amount)


def _value(kind: Kind, p: numpy.ndarray, amount: numpy.ndarray) -> numpy.ndarray:
    if kind == "silu":
        return p[0] - p[2] * amount ** -p[1]
    return p[0] + numpy.exp(p[2] - p[3] * amount ** p[1])


def fit_law(
    amount: Float[numpy.ndarray, " points"],
    active: Float[numpy.ndarray, " points"],
    kind: Kind,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> Law:
    """Fit a law by least squares from several starts; the best fit counts.

    Args:
        amount: how much data, in any unit; the unit only scales c.
        active: the share of active neurons, between 0 and 1.
        resamples: how many residual bootstraps give the intervals.

    Raises:
        ValueError: an unknown kind, fewer points than parameters, points that are not positive and finite, or
            no start that converged.

    >>> d = numpy.geomspace(1, 100, 12)
    >>> round(fit_law(d, 0.4 - 0.2 / d**0.5, "silu").parameters["limit"], 4)
    0.4
    """
    if kind not in _NAMES:
        raise ValueError(f"kind={kind!r} is not one of {', '.join(_NAMES)}")
    amount, active = numpy.asarray(amount, dtype=float), numpy.asarray(active, dtype=float)
    names = _NAMES[kind]
    if amount.shape != active.shape or amount.ndim != 1 or len(amount) < len(names):
        raise ValueError(f"a law of {len(names)} parameters needs as many points; got {amount.shape}, {active.shape}")
    if not (numpy.isfinite(amount).all() and numpy.isfinite(active).all() and (amount > 0).all()):
        raise ValueError("amounts must be positive and all points finite")
    scale = float(numpy.exp(numpy.log(amount).mean()))  # the fit is better conditioned around one
    best = _best(amount / scale, active, kind, _starts(active, kind, numpy.random.default_rng(seed)))
    left = active - _value(kind, best, amount / scale)
    rng = numpy.random.default_rng([seed, 1])
    again = []
    for _ in range(resamples):
        noisy = _value(kind, best, amount / scale) + rng.choice(left, len(left))
        again.append(_unscaled(_best(amount / scale, noisy, kind, [best]), scale, kind))
    intervals = {}
    if again:
        low, high = numpy.percentile(numpy.array(again), [2.5, 97.5], axis=0)
        intervals = {n: (float(a), float(b)) for n, a, b in zip(names, low, high, strict=True)}
    found = _unscaled(best, scale, kind)
    return Law(kind, dict(zip(names, map(float, found), strict=True)), intervals, math.sqrt(float((left**2).mean())))


def _unscaled(p: numpy.ndarray, scale: float, kind: Kind) -> numpy.ndarray:
    p = p.copy()
    p[-1] = p[-1] * scale ** p[1] if kind == "silu" else p[-1] / scale ** p[1]
    return p


def _starts(active: numpy.ndarray, kind: Kind, rng: numpy.random.Generator) -> list[numpy.ndarray]:
    spread = max(float(numpy.ptp(active)), 1e-3)
    starts = []
    for _ in range(24):
        a, c = float(rng.uniform(0.1, 1.5)), float(numpy.exp(rng.uniform(-2, 2)))
        if kind == "silu":
            starts.append(numpy.array([active.max() + spread * rng.uniform(0, 1), a, spread * c]))
        else:
            starts.append(numpy.array([max(active.min() - spread * rng.uniform(0, 1), 0), a, math.log(spread) + c, c]))
    return starts


def _best(amount: numpy.ndarray, active: numpy.ndarray, kind: Kind, starts: list[numpy.ndarray]) -> numpy.ndarray:
    low = [-1.0, 1e-3, 1e-9] if kind == "silu" else [-1.0, 1e-3, -30.0, 1e-9]
    high = [2.0, 5.0, 1e3] if kind == "silu" else [2.0, 5.0, 30.0, 60.0]
    found = [
        least_squares(
            lambda p: _value(kind, p, amount) - active, numpy.clip(start, low, high), bounds=(low, high),
            x_scale="jac", max_nfev=2000, xtol=1e-12, ftol=1e-12,
        )
        for start in starts
    ]  # fmt: skip
    good = [f for f in found if f.success and numpy.isfinite(f.cost)]
    if not good:
        raise ValueError("no start of the fit converged: are the points of the law's shape?")
    return min(good, key=lambda f: f.cost).x
