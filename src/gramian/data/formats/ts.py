r"""Text formats of labelled time series: ``.ts``, ``.arff`` and ``.tsf``.

A ``.ts`` line holds a series: its channels are separated by ``:``, a channel's values by commas, and the
label comes last. In ``.arff`` an equal-length univariate series is a row of numbers with the label last; a
multivariate one is a quoted block whose channels are separated by ``\n`` (a backslash and an n). ``.tsf``
holds unlabelled series, ``name:start:v1,v2,…``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

One = Float[np.ndarray, "_ _"]
Labelled = tuple[list[One], Shaped[np.ndarray, " series"]]

_MISSING = {"", "?", "nan"}


def read_ts(path: Path, *, regression: bool | None = None) -> Labelled:
    """Read a ``.ts`` file.

    Args:
        path: the file.
        regression: whether the labels are numbers; by default what the header says.

    Returns:
        The series, float64 (length, channels) each, and the labels (strings, or float64 for regression;
        empty strings where the file has none). Missing values are NaN.

    Raises:
        ValueError: a line cannot be read; the message gives its number.
    """
    series, labels, labelled, target = [], [], True, False
    started = False
    for number, line in _lines(path, comment="#"):
        if not started:
            low = line.lower()
            if low.startswith("@data"):
                started = True
            elif low.startswith("@timestamps") and "true" in low:
                raise ValueError(f"{path}: series with time stamps are not read; give plain values")
            elif low.startswith("@classlabel"):
                labelled = "true" in low.split()
            elif low.startswith("@targetlabel"):
                labelled = target = "true" in low.split()
            elif not low.startswith("@"):
                raise ValueError(
                    f"{path}, line {number}: expected a header line that starts with @, found {line[:40]!r}"
                )
            continue
        *channels, label = line.split(":") if labelled else (*line.split(":"), "")
        if not channels:
            raise ValueError(f"{path}, line {number}: no label after the values; it comes last, behind a colon")
        series.append(_stack([_numbers(c, path, number) for c in channels], path, number))
        labels.append(label.strip())
    if not started:
        raise ValueError(f"{path} has no @data line, so it is not a .ts file")
    return series, _labels(labels, target if regression is None else regression, path)


def read_arff(path: Path) -> Labelled:
    """Read an ``.arff`` file of series; returns what `read_ts` returns.

    Raises:
        ValueError: a line cannot be read; the message gives its number.
    """
    series, labels = [], []
    started = False
    numeric_label = False
    for number, line in _lines(path, comment="%"):
        if not started:
            low = line.lower()
            started = low.startswith("@data")
            if low.startswith("@attribute"):
                numeric_label = bool(re.search(r"\s(numeric|real)$", low))
            elif not low.startswith("@"):
                raise ValueError(
                    f"{path}, line {number}: expected a header line that starts with @, found {line[:40]!r}"
                )
            continue
        if line[0] in "'\"":
            block, _, label = line[1:].rpartition(line[0])
            channels = block.split("\\n")
        else:
            values, _, label = line.rpartition(",")
            channels = [values]
        series.append(_stack([_numbers(c, path, number) for c in channels], path, number))
        labels.append(label.strip(" ,'\""))
    if not started:
        raise ValueError(f"{path} has no @data line, so it is not an .arff file")
    return series, _labels(labels, numeric_label, path)


def read_tsf(path: Path) -> tuple[dict[str, Float[np.ndarray, " _"]], int | None]:
    """Read a ``.tsf`` file: the series by name, float64 (length,) each, and the forecasting horizon if given.

    Raises:
        ValueError: a line cannot be read; the message gives its number.
    """
    series: dict[str, np.ndarray] = {}
    horizon = None
    started = False
    for number, line in _lines(path, comment="#"):
        if started:
            name, *_, values = line.split(":")
            series[name] = _numbers(values, path, number)
        elif line.lower().startswith("@horizon"):
            horizon = int(line.split()[1])
        else:
            started = line.lower().startswith("@data")
    if not started:
        raise ValueError(f"{path} has no @data line, so it is not a .tsf file")
    return series, horizon


def as_array(series: list[One]) -> Float[np.ndarray, "series length channels"] | list[One]:
    """One array (series, length, channels) where all lengths agree, else the list as it is."""
    return np.stack(series) if len({s.shape for s in series}) == 1 else series


def _lines(path: Path, comment: str) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8", errors="strict") as file:
            for number, line in enumerate(file, start=1):
                if (line := line.strip()) and not line.startswith(comment):
                    yield number, line
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error.reason} at byte {error.start}") from None


def _numbers(text: str, path: Path, number: int) -> np.ndarray:
    fields = [f.strip() for f in text.split(",")]
    try:
        return np.array([np.nan if f.lower() in _MISSING else float(f) for f in fields])
    except ValueError:
        column, bad = next((i, f) for i, f in enumerate(fields, start=1) if not _is_number(f))
        raise ValueError(f"{path}, line {number}, value {column}: {bad!r} is not a number") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in _MISSING
    return True


def _stack(channels: list[np.ndarray], path: Path, number: int) -> np.ndarray:
    lengths = [len(c) for c in channels]
    if len(set(lengths)) > 1:
        raise ValueError(f"{path}, line {number}: the channels of one series have different lengths {lengths}")
    return np.stack(channels, axis=1)


def _labels(labels: list[str], regression: bool, path: Path) -> np.ndarray:
    if not regression:
        return np.array(labels, dtype=str)
    try:
        return np.array([float(label) for label in labels])
    except ValueError as error:
        raise ValueError(f"{path}: the file says that labels are numbers, but {error}") from None
