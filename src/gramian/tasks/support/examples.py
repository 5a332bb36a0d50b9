"""Examples to judge, of any kind: pictures and texts in folders, rows and texts in tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas

__all__ = ["Examples", "Split", "read_texts", "split_table"]

NORMAL = ("good", "normal")


@dataclass(frozen=True)
class Examples:
    """What is judged, and what to call it in a table.

    Attributes:
        items: uint8 pictures (height, width[, 3]), texts, or rows of numbers.
    """

    items: list[Any]
    names: list[str]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Split:
    """Normal examples to learn from, and others to judge; without labels where nothing is known of them."""

    train: Examples
    test: Examples
    labels: numpy.ndarray | None


def read_texts(folder: Path) -> Split | None:
    """A folder of text files: train/ and test/<kind>/, or texts alone.

    None where it holds anything else: pictures with a readme.txt beside them are pictures.

    Raises:
        ValueError: train/ without test/, or the other way round; a folder in train/ that is not of normal texts.
    """
    files = sorted(f for f in folder.rglob("*") if f.is_file() and not f.name.startswith("."))
    if not files or any(f.suffix.lower() != ".txt" for f in files):
        return None
    parts = {part: [f for f in files if f.relative_to(folder).parts[0] == part] for part in ("train", "test")}
    if not any(parts.values()):
        every = _texts(files, folder)
        return Split(every, every, None)
    if not all(parts.values()):
        here, gone = ("train", "test") if parts["train"] else ("test", "train")
        raise ValueError(f"{folder} has texts in {here}/ but not in {gone}/; both are needed")
    strange = sorted(
        {f.relative_to(folder).parts[1] for f in parts["train"] if f.parent != folder / "train"} - {*NORMAL}
    )
    if strange:
        raise ValueError(
            f"{folder / 'train'} has the folder {strange[0]!r}; only normal texts (good/) are learned from"
        )
    kinds = [f.relative_to(folder).parts[1:-1] for f in parts["test"]]
    labels = numpy.array([kind[0] for kind in kinds]) if all(kinds) else None
    return Split(_texts(parts["train"], folder), _texts(parts["test"], folder), labels)


def _texts(files: list[Path], folder: Path) -> Examples:
    return Examples([f.read_text(encoding="utf-8") for f in files], [str(f.relative_to(folder)) for f in files])


def split_table(table: Any, normal: str, seed: int = 0) -> Split:
    """Half of the normal rows to learn from; the others, and all that are not normal, to judge.

    Args:
        table: `gramian.data.Table`; one column of text is read as texts, numbers as rows. Without a target all rows
            count as normal, and are judged too.
        normal: the target's value of normal rows; "" takes good, normal or, if there is neither, the most frequent.

    Raises:
        ValueError: a value that is not there, no other, or what `Table.x` raises.
    """
    if len(table.features) == 1 and not pandas.api.types.is_numeric_dtype(table.frame[table.features[0]]):
        items = table.frame[table.features[0]].astype(str).tolist()
    else:
        words = [c for c in table.features if not pandas.api.types.is_numeric_dtype(table.frame[c])]
        if words:
            raise ValueError(
                f"table {table.name!r} has text in {', '.join(words[:8])}: name the column that says what a row is "
                "(--target) and leave the others out, or keep one column of text alone"
            )
        items = list(table.x)
    names = [f"row {i}" for i in range(len(items))]
    if table.target is None:
        every = Examples(items, names)
        return Split(every, every, None)
    labels = table.frame[table.target].astype(str).to_numpy()
    values, counts = numpy.unique(labels, return_counts=True)
    if not normal:
        known = [v for v in NORMAL if v in values]
        normal = known[0] if known else str(values[counts.argmax()])
    if normal not in values or len(values) < 2:
        raise ValueError(
            f"normal={normal!r}: column {table.target!r} has {', '.join(values[:8])}; one of them is normal, and "
            "another must be there to measure"
        )
    usual = numpy.flatnonzero(labels == normal)
    usual = numpy.random.default_rng(seed).permutation(usual)
    known, asked = numpy.sort(usual[: len(usual) // 2]), numpy.sort(usual[len(usual) // 2 :])
    asked = numpy.concatenate((asked, numpy.flatnonzero(labels != normal)))
    kinds = numpy.where(labels[asked] == normal, "normal", labels[asked])
    chosen = [Examples([items[i] for i in rows], [names[i] for i in rows]) for rows in (known, asked)]
    return Split(chosen[0], chosen[1], kinds)
