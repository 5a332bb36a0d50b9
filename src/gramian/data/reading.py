"""Reads the user's own files. Nothing in them is trusted: no pickle is ever opened, and whatever is wrong is
said with the place where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gramian.data.checks import OnMissing, checked_series, checked_table
from gramian.data.formats.ts import as_array, read_arff, read_ts, read_tsf
from gramian.data.kinds import Image, ImageSet, LabelledSeries, SeriesRecords, SeriesSet
from gramian.lab import Missing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read(path: Path | str, target: str | None = None, *, missing: OnMissing = "error") -> Any:
    """Read a file or folder of the user's; what comes back depends on its suffix.

    ========================  ==========================================================================
    ``.csv .tsv .parquet``    `Table`
    ``.ts .arff``             `SeriesRecords`; with ``…_TRAIN`` and ``…_TEST`` side by side, `LabelledSeries`
    ``.tsf``                  `SeriesSet`
    ``.npy``                  the array
    ``.npz``                  `LabelledSeries` (x_train, y_train, x_test, y_test), `SeriesRecords` (x of three
                              dimensions, y), `Table` (x of two, y), else a dictionary of arrays
    ``.jsonl .ndjson``        list of the lines' values
    ``.safetensors``          dictionary of tensors
    an image                  `Image`
    a folder of images        `ImageSet`; subfolders are labels
    ========================  ==========================================================================

    Args:
        path: the file or folder.
        target: for tables, the column to predict.
        missing: for tables and labelled series, what to do with missing values.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the content is not what it should be; the message says where and how to mend it.
        gramian.lab.Missing: an extra is needed; the message names the command.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    if path.is_dir():
        return _read_folder(path, missing)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".parquet"):
        return checked_table(_frame(path), path, target, missing)
    if target is not None:
        raise ValueError(f"target={target!r} is for tables (.csv, .tsv, .parquet); {path.name} is none")
    if suffix in (".ts", ".arff"):
        return _read_series(path, missing)
    if suffix == ".npz":
        return _read_npz(path, missing)
    if suffix in IMAGE_SUFFIXES:
        return Image(path.stem, _pixels(path))
    readers: dict[str, Callable[[Path], Any]] = {
        ".tsf": lambda p: SeriesSet(p.stem, *read_tsf(p)),
        ".npy": _read_npy,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".safetensors": _read_safetensors,
    }
    if suffix not in readers:
        known = ", ".join(sorted({".csv", ".tsv", ".parquet", ".ts", ".arff", ".npz", *IMAGE_SUFFIXES, *readers}))
        raise ValueError(f"{path.name}: files called {suffix or 'without a suffix'!r} are not read; these are: {known}")
    return readers[suffix](path)


def _frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        frame = pd.read_csv(
            path, sep="\t" if path.suffix.lower() == ".tsv" else ",", encoding="utf-8-sig", low_memory=False
        )
    except ImportError as error:
        raise Missing(f"{path.name} needs pyarrow: pip install 'gramian[files]'") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a table: {str(error).strip()}") from None
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"the rows of {path.name} have more fields than its first line, which names the columns")
    return frame


def _read_series(path: Path, missing: OnMissing) -> SeriesRecords | LabelledSeries:
    stem, _, part = path.stem.rpartition("_")
    both = [path.with_name(f"{stem}_{p}{path.suffix}") for p in ("TRAIN", "TEST")]
    if stem and part in ("TRAIN", "TEST") and all(p.is_file() for p in both):
        train, test = (_read_series_file(p, missing) for p in both)
        x = as_array([*train.x, *test.x])
        n = len(train.y)
        return LabelledSeries(stem, x[:n], train.y, x[n:], test.y)
    return _read_series_file(path, missing)


def _read_series_file(path: Path, missing: OnMissing) -> SeriesRecords:
    series, y = (read_arff if path.suffix.lower() == ".arff" else read_ts)(path)
    return checked_series(path.stem, as_array(series) if series else series, y, missing)


def _arrays(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "pickle" in str(error).lower():
            raise ValueError(
                f"{path.name} holds Python objects or is no NumPy file; only plain arrays are read"
            ) from None
        raise ValueError(f"{path.name} is cut off or no NumPy file: {error}") from None
    except Exception as error:  # a damaged .npz raises zipfile's own class
        raise ValueError(f"{path.name} is cut off or no NumPy file: {error}") from None


def _read_npy(path: Path) -> np.ndarray:
    array = _arrays(path)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path.name} holds values of type {array.dtype}; numbers are needed")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{path.name} has {len(bad)} missing or infinite values, the first at index {tuple(bad[0].tolist())}"
        )
    return array


def _read_npz(path: Path, missing: OnMissing) -> Any:
    with _arrays(path) as stored:
        try:
            arrays = {name.lower(): stored[name] for name in stored.files}
        except ValueError as error:
            raise ValueError(f"{path.name} holds Python objects; only plain arrays are read ({error})") from None
    parts = ("x_train", "y_train", "x_test", "y_test")
    if all(p in arrays for p in parts):
        train, test = (_records(path, arrays[f"x_{p}"], arrays[f"y_{p}"], missing) for p in ("train", "test"))
        return LabelledSeries(path.stem, train.x, train.y, test.x, test.y)
    if set(arrays) == {"x", "y"} and arrays["x"].ndim == 3:
        return _records(path, arrays["x"], arrays["y"], missing)
    if set(arrays) == {"x", "y"} and arrays["x"].ndim == 2:
        frame = pd.DataFrame(arrays["x"], columns=[f"x{i}" for i in range(arrays["x"].shape[1])])
        if len(arrays["y"]) != len(frame):
            raise ValueError(f"{path.name} has {len(frame)} rows in x and {len(arrays['y'])} in y")
        return checked_table(frame.assign(y=arrays["y"]), path, "y", missing)
    return arrays


def _records(path: Path, x: np.ndarray, y: np.ndarray, missing: OnMissing) -> SeriesRecords:
    if x.ndim != 3 or y.ndim != 1:
        raise ValueError(
            f"{path.name}: series are (count, length, channels) and labels (count,); x has shape {x.shape}, y {y.shape}"
        )
    labels = y.astype(np.float64) if y.dtype.kind == "f" else y.astype(str)
    return checked_series(path.stem, x.astype(np.float64), labels, missing)


def _read_json_lines(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    values = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also cut at U+2028 inside a string
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}, column {error.colno}: no JSON ({error.msg})") from None
    if not values:
        raise ValueError(f"{path.name} is empty; it holds one JSON value a line")
    return values


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is cut off or no safetensors file: {error}") from None


def _read_folder(path: Path, missing: OnMissing) -> ImageSet | LabelledSeries:
    for suffix in (".ts", ".arff"):
        if trains := sorted(path.glob(f"*_TRAIN{suffix}")):
            if len(trains) > 1:
                raise ValueError(
                    f"{path} holds several sets ({', '.join(t.stem for t in trains)}); name one of the files"
                )
            found = _read_series(trains[0], missing)
            if not isinstance(found, LabelledSeries):
                raise ValueError(f"{path} holds {trains[0].name} but not the _TEST file that goes with it")
            return found
    return _read_images(path)


def _read_images(path: Path) -> ImageSet:
    def pictures(folder: Path) -> list[Path]:
        return sorted(f for f in folder.iterdir() if f.is_file() and f.suffix.lower() in IMAGE_SUFFIXES)

    loose = pictures(path)
    labelled = {d.name: found for d in sorted(path.iterdir()) if d.is_dir() and (found := pictures(d))}
    if loose and labelled:
        raise ValueError(
            f"{path} has images of its own ({loose[0].name}, …) beside labelled folders ({', '.join(labelled)}); "
            "move them into folders, or the folders elsewhere"
        )
    if not loose and not labelled:
        raise ValueError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}), nor do its folders")
    files = loose or [f for found in labelled.values() for f in found]
    labels = np.array([name for name, found in labelled.items() for _ in found]) if labelled else None
    return ImageSet(path.name, [_pixels(f) for f in files], files, labels)


def _pixels(file: Path) -> np.ndarray:
    """The pixels of an image, uint8 (height, width, 3)."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except Pillow.UnidentifiedImageError:
        with open(file, "rb") as stream:
            start = stream.read(12)
        raise ValueError(f"{file} is called an image but is none: it starts with {start!r}") from None
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise ValueError(f"{file} is a damaged image: {error}") from None
