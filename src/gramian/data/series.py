"""Named series, ready to be forecast: values, calendar, season, and how the literature splits them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from gramian.data import loading

__all__ = ["SERIES", "NamedSeries", "calendar_features", "named_series"]


@dataclass(frozen=True)
class NamedSeries:
    """A series without gaps.

    Attributes:
        values: (length, channels).
        period: steps in a season, for the seasonal naive forecast.
        parts: rows or shares of training, validation and test.
        calendar: features of each step's time in [−0.5, 0.5], where the times are known.
    """

    name: str
    values: Float[np.ndarray, "length channels"]
    columns: tuple[str, ...]
    period: int
    parts: tuple[float, ...] | tuple[int, ...]
    calendar: Float[np.ndarray, "length features"] | None = None


def calendar_features(times: pd.DatetimeIndex) -> Float[np.ndarray, "length 4"]:
    """Hour of the day, day of the week, of the month and of the year, each scaled to [−0.5, 0.5].

    >>> calendar_features(pd.DatetimeIndex(["2024-01-01 00:00"]))  # a Monday
    array([[-0.5, -0.5, -0.5, -0.5]])
    """
    parts = (times.hour / 23, times.dayofweek / 6, (times.day - 1) / 30, (times.dayofyear - 1) / 365)
    return np.stack([np.asarray(p, dtype=np.float64) for p in parts], 1) - 0.5


def _elnino() -> NamedSeries:
    frame = loading.load("elnino").frame
    months = [c for c in frame.columns if c != "YEAR"]
    values = frame[months].to_numpy(np.float64).reshape(-1, 1)
    return NamedSeries("elnino", values, ("temperature",), 12, (0.6, 0.15, 0.25))


def _sunspots() -> NamedSeries:
    values = loading.load("sunspots").frame[["SUNACTIVITY"]].to_numpy(np.float64)
    return NamedSeries("sunspots", values, ("sunspots",), 11, (0.6, 0.15, 0.25))


def _airline() -> NamedSeries:
    values = loading.load("airline").numeric().frame.iloc[:, -1:].to_numpy(np.float64)
    return NamedSeries("airline", values, ("passengers",), 12, (0.6, 0.15, 0.25))


def _uschange() -> NamedSeries:
    frame = loading.load("uschange").numeric().frame
    return NamedSeries("uschange", frame.to_numpy(np.float64), tuple(frame.columns), 4, (0.6, 0.15, 0.25))


def _macrodata() -> NamedSeries:
    """Quarterly growth: differences of logarithms of levels, of the rates themselves."""
    frame = loading.load("macrodata").frame.drop(columns=["year", "quarter"])
    levels = ["realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1", "pop"]
    rates = ["tbilrate", "unemp"]
    change = np.concatenate([np.diff(np.log(frame[levels].to_numpy(np.float64)), axis=0),
                             np.diff(frame[rates].to_numpy(np.float64), axis=0)], 1)  # fmt: skip
    return NamedSeries("macrodata", change, (*levels, *rates), 4, (0.6, 0.15, 0.25))


def _etth1() -> NamedSeries:
    frame = loading.load("etth1").frame
    calendar = calendar_features(pd.DatetimeIndex(pd.to_datetime(frame["date"])))
    values = frame.drop(columns="date")
    return NamedSeries(
        "etth1", values.to_numpy(np.float64), tuple(values.columns), 24, (8640, 2880, 2880), calendar
    )  # fmt: skip


def _exchange_rate() -> NamedSeries:
    """The file has no times; it starts on the first of January 1990 and takes every day as the next."""
    frame = loading.load("exchange_rate").frame
    calendar = calendar_features(pd.date_range("1990-01-01", periods=len(frame), freq="D"))
    values = frame.to_numpy(np.float64)
    return NamedSeries("exchange_rate", values, tuple(map(str, frame.columns)), 5, (0.7, 0.1, 0.2), calendar)


SERIES = {
    "airline": _airline,
    "elnino": _elnino,
    "etth1": _etth1,
    "exchange_rate": _exchange_rate,
    "macrodata": _macrodata,
    "sunspots": _sunspots,
    "uschange": _uschange,
}


def named_series(name: str) -> NamedSeries:
    """The series of that name out of the catalogue, in the form in which it is forecast.

    Raises:
        ValueError: no such series.
        gramian.lab.Missing: it is not on this machine.
    """
    if name not in SERIES:
        raise ValueError(f"no series {name!r} that is ready to be forecast; there are {', '.join(sorted(SERIES))}")
    return SERIES[name]()
