"""A check: a claim, a measured figure, a bound, and whether it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


def _plain(value: Any) -> Any:
    """A Python scalar (or a nested tuple of them) out of whatever was measured."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(_plain(v) for v in value))
    return value


@dataclass(frozen=True)
class Check:
    """One measured claim.

    Attributes:
        claim: the claim, as a sentence that is true or false.
        measured: the figure.
        bound: the bound in words, such as ``"< 0.01"``.
        paper: what the paper reports, or why it cannot be reproduced here.
        ok: whether the figure respects the bound. NaN and infinity never do.
    """

    claim: str
    measured: Any
    bound: str
    ok: bool
    paper: str | None = None

    @classmethod
    def of(
        cls,
        claim: str,
        measured: Any,
        *,
        below: float | None = None,
        above: float | None = None,
        between: tuple[float, float] | None = None,
        equals: Any = None,
        paper: str | None = None,
    ) -> Check:
        """Compare `measured` with exactly one bound.

        Raises:
            ValueError: not exactly one bound given, or a bound that nothing can fail.
            TypeError: a measured value that is not a number where the bound is one.
        """
        given = [
            n
            for n, v in (("below", below), ("above", above), ("between", between), ("equals", equals))
            if v is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of below=, above=, between=, equals=; got {given or 'none'} for {claim!r}"
            )
        measured = _plain(measured)
        if equals is not None:
            target = _plain(equals)
            return cls(claim, measured, f"= {target!r}", bool(measured == target), paper)
        if not isinstance(measured, (int, float)):
            raise TypeError(f"check {claim!r}: measured {measured!r} is not a number")
        low, high = between if between is not None else (above, below)
        if low == -math.inf or high == math.inf or (low is not None and high is not None and low > high):
            raise ValueError(f"check {claim!r}: no value can fail (or none can pass) the bound {between or given}")
        ok = math.isfinite(measured) and (low is None or measured >= low) and (high is None or measured <= high)
        if between is not None:
            bound = f"in [{low:g}, {high:g}]"
        else:
            bound = f"≥ {low:g}" if high is None else f"≤ {high:g}"
        return cls(claim, measured, bound, ok, paper)

    def as_dict(self) -> dict[str, Any]:
        measured = self.measured
        if isinstance(measured, float) and not math.isfinite(measured):
            measured = str(measured)  # JSON has no NaN
        return {"claim": self.claim, "measured": measured, "bound": self.bound, "paper": self.paper, "ok": self.ok}
