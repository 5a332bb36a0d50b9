"""What is looked for in a user's table or series before a method sees them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from gramian.data.formats.ts import as_array
from gramian.data.kinds import SeriesRecords, Table

OnMissing = Literal["error", "drop", "keep"]
"""What to do with missing values: refuse them, drop their rows, or leave them."""

MIN_ROWS = 3


def checked_table(frame: pd.DataFrame, path: Path, target: str | None = None, missing: OnMissing = "error") -> Table:
    """Turn a frame into a `Table` after looking for what would make a method fail later or, worse, not fail.

    Raises:
        ValueError: too few rows, no such target, a column of numbers with text in it, missing values, infinite
            numbers, or a target that is the same in every row.
    """
    frame = frame.rename(columns=str)
    if target is not None and target not in frame.columns:
        near = get_close_matches(target, list(frame.columns), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"{path.name} has no column {target!r}{hint} Its columns are {', '.join(frame.columns)}")
    for column in frame.columns:
        _refuse_mixed(frame[column], path)
    if missing != "keep":
        gaps = frame.isna()
        if gaps.to_numpy().any():
            if missing == "error":
                row, column = np.argwhere(gaps.to_numpy())[0]
                raise ValueError(
                    f"{path.name} has {int(gaps.to_numpy().sum())} missing values, the first in {_place(row)}, column "
                    f"{frame.columns[column]!r}; fill them, or pass missing='drop' to leave those rows out"
                )
            frame = frame[~gaps.any(axis=1)].reset_index(drop=True)
    if len(frame) < MIN_ROWS:
        raise ValueError(f"{path.name} has {len(frame)} rows; at least {MIN_ROWS} are needed to learn from")
    for column in frame.select_dtypes("number").columns:
        infinite = np.flatnonzero(np.isinf(frame[column].to_numpy(dtype=float, na_value=np.nan)))
        if infinite.size:
            raise ValueError(f"{path.name} has an infinite number in {_place(infinite[0])}, column {column!r}")
    if target is not None and frame[target].nunique(dropna=True) < 2:
        raise ValueError(
            f"column {target!r} of {path.name} is {str(frame[target].iloc[0])!r} in every row; "
            "there is nothing to tell apart: give data with at least two classes"
        )
    return Table(path.stem, frame, target)


def _place(row: int | np.integer) -> str:
    return f"row {int(row) + 1}"


def _refuse_mixed(column: pd.Series, path: Path) -> None:
    """A column most of whose values are numbers is meant as numbers: text in it is a mistake, not a category."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return
    present = column.dropna()
    number = pd.to_numeric(present.astype(str), errors="coerce").notna()
    if number.any() and not number.all() and number.mean() >= 0.5:
        row = column.index.get_loc(number.index[~number][0])
        raise ValueError(
            f"column {column.name!r} of {path.name} mixes numbers and text: {_place(row)} holds {column.iloc[row]!r}; "
            "make it a number or leave it empty"
        )


def checked_series(
    name: str, x: np.ndarray | list[np.ndarray], y: np.ndarray, missing: OnMissing = "error"
) -> SeriesRecords:
    """Turn series and labels into `SeriesRecords` after looking for what would make a classifier fail later.

    Raises:
        ValueError: too few series, labels that do not match, one class only, or values that are missing or infinite.
    """
    if len(x) != len(y):
        raise ValueError(f"{name} has {len(x)} series and {len(y)} labels; each series needs one")
    if len({s.shape[1] for s in x}) > 1:
        raise ValueError(f"the series of {name} have different numbers of channels: {sorted({s.shape[1] for s in x})}")
    bad = [(i, np.argwhere(~np.isfinite(s))) for i, s in enumerate(x)]
    bad = [(i, where[0]) for i, where in bad if len(where)]
    if bad and missing == "drop":
        dropped = {i for i, _ in bad}
        kept = [i for i in range(len(x)) if i not in dropped]
        x, y = as_array([x[i] for i in kept]) if kept else [], y[kept]
    elif bad and missing == "error":
        i, (time, channel) = bad[0]
        raise ValueError(
            f"{len(bad)} series of {name} have missing or infinite values, the first in series {i + 1}, "
            f"time {time + 1}, channel {channel + 1}; fill them, or pass missing='drop' to leave those series out"
        )
    if len(x) < MIN_ROWS:
        raise ValueError(f"{name} has {len(x)} series; at least {MIN_ROWS} are needed to learn from")
    if y.dtype.kind != "f" and len(set(y.tolist())) < 2:
        raise ValueError(f"every series of {name} is labelled {str(y[0])!r}; give at least two classes")
    return SeriesRecords(name, x, y)
