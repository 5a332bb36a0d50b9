"""What `gramian.data.load` gives back: a few plain records, each of which can say its shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped, UInt8


@dataclass(frozen=True)
class LabelledSeries:
    """Labelled time series with the split into training and test part that their authors fixed.

    Attributes:
        x_train, x_test: float64 arrays (series, length, channels); where lengths differ, lists of
            (length, channels) arrays.
        y_train, y_test: labels as strings; for regression, float64.
    """

    name: str
    x_train: Float[np.ndarray, "train _ channels"] | list[Float[np.ndarray, "_ channels"]]
    y_train: Shaped[np.ndarray, " train"]
    x_test: Float[np.ndarray, "test _ channels"] | list[Float[np.ndarray, "_ channels"]]
    y_test: Shaped[np.ndarray, " test"]

    @property
    def ragged(self) -> bool:
        """Whether lengths differ."""
        return isinstance(self.x_train, list) or isinstance(self.x_test, list)

    @property
    def regression(self) -> bool:
        """Whether the labels are numbers to predict."""
        return self.y_train.dtype.kind == "f"

    @property
    def channels(self) -> int:
        return self.x_train[0].shape[1]

    @property
    def classes(self) -> list[str]:
        """The labels, sorted; empty for regression."""
        return [] if self.regression else sorted({*self.y_train.tolist(), *self.y_test.tolist()})

    @property
    def shape(self) -> str:
        lengths = [len(x) for part in (self.x_train, self.x_test) for x in part]
        length = f"{min(lengths)}..{max(lengths)}" if self.ragged else f"{lengths[0]}"
        what = "regression" if self.regression else f"{len(self.classes)} classes"
        return f"{len(self.x_train)}+{len(self.x_test)}, {self.channels} x {length}, {what}"


@dataclass(frozen=True)
class SeriesRecords:
    """Labelled time series that nobody has split yet, as a user's file holds them.

    Attributes:
        x: float64 (series, length, channels); where lengths differ, a list of (length, channels) arrays.
        y: labels as strings, or float64 for regression.
    """

    name: str
    x: Float[np.ndarray, "series _ channels"] | list[Float[np.ndarray, "_ channels"]]
    y: Shaped[np.ndarray, " series"]

    def split(self, test_share: float = 0.3, seed: int = 0) -> LabelledSeries:
        """A random split; for classes, each keeps its share and has at least one series in both parts.

        Raises:
            ValueError: the share is not between 0 and 1, or a class has one series only.
        """
        if not 0 < test_share < 1:
            raise ValueError(f"test_share is {test_share}; it lies between 0 and 1")
        rng = np.random.default_rng(seed)
        groups = [np.arange(len(self.y))]
        if self.y.dtype.kind != "f":
            groups = [np.flatnonzero(self.y == label) for label in np.unique(self.y)]
            if small := [self.y[g[0]] for g in groups if len(g) < 2]:
                raise ValueError(f"the classes {_listed(small)} of {self.name!r} have one series; a split needs two")
        chosen = [rng.permutation(g)[: min(max(round(test_share * len(g)), 1), len(g) - 1)] for g in groups]
        test = np.zeros(len(self.y), dtype=bool)
        test[np.concatenate(chosen)] = True
        parts = [
            [x for x, t in zip(self.x, test) if t == want] if isinstance(self.x, list) else self.x[test == want]
            for want in (False, True)
        ]
        return LabelledSeries(self.name, parts[0], self.y[~test], parts[1], self.y[test])

    @property
    def shape(self) -> str:
        lengths = sorted({len(x) for x in self.x})
        length = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]}..{lengths[-1]}"
        what = "regression" if self.y.dtype.kind == "f" else f"{len(np.unique(self.y))} classes"
        return f"{len(self.y)}, {self.x[0].shape[1]} x {length}, {what}"


@dataclass(frozen=True)
class Series:
    """One time series, with what is marked in it.

    Attributes:
        values: float64 (length, channels), named by `columns`.
        labels: int64 (length,), not 0 where something is marked (an anomaly, a change, the second kind of
            segment); None where nothing is.
        train: an earlier part to learn from, float64 (length, channels), where the set has one.
        change_points: positions at which the generating process changes, where the set lists them.
    """

    name: str
    values: Float[np.ndarray, "length channels"]
    columns: tuple[str, ...]
    labels: Int[np.ndarray, " length"] | None = None
    train: Float[np.ndarray, "earlier channels"] | None = None
    change_points: tuple[int, ...] = ()

    @property
    def shape(self) -> str:
        length, channels = self.values.shape
        labels = "" if self.labels is None else ", labels"
        train = "" if self.train is None else f", train {self.train.shape[0]} x {self.train.shape[1]}"
        return f"{length} x {channels}{labels}{train}"


@dataclass(frozen=True)
class SeriesSet:
    """Unlabelled univariate series of different lengths, by name: float64 (length,) each."""

    name: str
    series: dict[str, Float[np.ndarray, " _"]]
    horizon: int | None = None

    @property
    def shape(self) -> str:
        lengths = [len(s) for s in self.series.values()]
        return f"{len(lengths)} series of {min(lengths)}..{max(lengths)}"


@dataclass(frozen=True)
class Table:
    """A table, the column to predict, and for times until an event the column that says if it happened.

    `x` and `y` are what estimators take; `x` refuses text and gaps rather than guess an encoding.
    """

    name: str
    frame: pd.DataFrame
    target: str | None = None
    event: str | None = None

    @property
    def features(self) -> list[str]:
        """The columns other than target and event."""
        return [c for c in self.frame.columns if c not in (self.target, self.event)]

    @property
    def x(self) -> Float[np.ndarray, "rows features"]:
        """The features, float64 (rows, features).

        Raises:
            ValueError: a feature is text or has gaps; the message names the columns. `numeric` leaves them out.
        """
        part = self.frame[self.features]
        text = [c for c in part.columns if not _is_number(part[c])]
        if text:
            raise ValueError(f"table {self.name!r} has text in {_listed(text)}; table.numeric() leaves it out")
        gaps = [c for c in part.columns if part[c].isna().any()]
        if gaps:
            raise ValueError(f"table {self.name!r} has gaps in {_listed(gaps)}; table.numeric() drops those rows")
        return part.to_numpy(dtype=np.float64)

    @property
    def y(self) -> Shaped[np.ndarray, " rows"]:
        """The target: float64 where it is a number, else strings.

        Raises:
            ValueError: the table has no target.
        """
        if self.target is None:
            raise ValueError(f"table {self.name!r} has no target column; its columns are {_listed(self.frame.columns)}")
        column = self.frame[self.target]
        return column.to_numpy(np.float64) if _is_number(column) else column.astype(str).to_numpy(dtype=str)

    def numeric(self) -> Table:
        """The same without text features, and without rows that have a gap in what remains."""
        kept = [c for c in self.features if _is_number(self.frame[c])]
        kept += [c for c in (self.target, self.event) if c is not None]
        return Table(self.name, self.frame[kept].dropna().reset_index(drop=True), self.target, self.event)

    def series(self) -> SeriesRecords:
        """The rows as univariate series, labelled by the target."""
        y = self.y if self.y.dtype.kind == "U" else self.frame[self.target].astype(str).to_numpy(dtype=str)
        return SeriesRecords(self.name, self.x[:, :, None], y)

    @property
    def shape(self) -> str:
        rows, columns = self.frame.shape
        return f"{rows} x {columns}" if self.target is None else f"{rows} x {columns - 1} + {self.target}"


@dataclass(frozen=True)
class Image:
    """A picture: uint8 (height, width) or (height, width, 3)."""

    name: str
    pixels: UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]

    @property
    def shape(self) -> str:
        return " x ".join(map(str, self.pixels.shape))


@dataclass(frozen=True)
class Stereo:
    """Two views uint8 (height, width, 3), and the disparity float32 (height, width); inf where unknown."""

    name: str
    left: UInt8[np.ndarray, "height width 3"]
    right: UInt8[np.ndarray, "height width 3"]
    disparity: Float[np.ndarray, "height width"]

    @property
    def shape(self) -> str:
        return f"{' x '.join(map(str, self.left.shape))}, disparity"


@dataclass(frozen=True)
class LabelledImages:
    """Small pictures of one size (count, height, width[, 3]) with labels (count,), int64."""

    name: str
    images: Shaped[np.ndarray, "count height width *colours"]
    labels: Int[np.ndarray, " count"]
    classes: tuple[str, ...] = ()

    @property
    def x(self) -> Float[np.ndarray, "count pixels"]:
        """A row a picture, float64 (count, pixels)."""
        return self.images.reshape(len(self.images), -1).astype(np.float64)

    @property
    def y(self) -> Int[np.ndarray, " count"]:
        return self.labels

    @property
    def shape(self) -> str:
        return f"{' x '.join(map(str, self.images.shape))}, {len(np.unique(self.labels))} classes"


@dataclass(frozen=True)
class ImageSet:
    """Pictures of a folder, as they are: uint8 (height, width, 3) each; labels are the subfolders' names, or None."""

    name: str
    images: list[UInt8[np.ndarray, "_ _ 3"]]
    files: list[Path]
    labels: Shaped[np.ndarray, " count"] | None = None

    @property
    def shape(self) -> str:
        kinds = "" if self.labels is None else f", {len(set(self.labels.tolist()))} classes"
        return f"{len(self.images)} images{kinds}"


@dataclass(frozen=True)
class Triples:
    """A knowledge graph: int64 (count, 3) rows of head, relation, tail, indices into the sorted names.

    Attributes:
        literals: (entity, attribute, value) with numbers for values, where the set has them.
    """

    name: str
    entities: tuple[str, ...]
    relations: tuple[str, ...]
    train: Int[np.ndarray, "train 3"]
    valid: Int[np.ndarray, "valid 3"]
    test: Int[np.ndarray, "test 3"]
    literals: list[tuple[str, str, float]] = field(default_factory=list)

    @property
    def shape(self) -> str:
        counts = "/".join(str(len(part)) for part in (self.train, self.valid, self.test))
        more = f", {len(self.literals)} literals" if self.literals else ""
        return f"{len(self.entities)} entities, {len(self.relations)} relations, {counts} triples{more}"


@dataclass(frozen=True)
class Graph:
    """A graph of networkx, and the features of its nodes where it has them.

    Attributes:
        graph: the graph; node attributes are the source's.
        features: float64 (nodes, features), or None.
    """

    name: str
    graph: Any
    features: Float[np.ndarray, "nodes features"] | None = None

    @property
    def edges(self) -> Int[np.ndarray, "edges 2"]:
        """The edges, int64 (edges, 2): positions of the nodes in the graph's order."""
        at = {node: i for i, node in enumerate(self.graph.nodes)}
        return np.array([(at[u], at[v]) for u, v in self.graph.edges], dtype=np.int64).reshape(-1, 2)

    @property
    def shape(self) -> str:
        weighted = any("weight" in d and d["weight"] != 1 for *_, d in self.graph.edges(data=True))
        text = f"{self.graph.number_of_nodes()} nodes, {self.graph.number_of_edges()} edges"
        text += ", directed" if self.graph.is_directed() else ""
        text += ", weighted" if weighted else ""
        return text if self.features is None else f"{text}, {self.features.shape[1]} features"


@dataclass(frozen=True)
class Weights:
    """Where a network's weights lie; `gramian.models.pretrained` makes the network."""

    name: str
    path: Path

    @property
    def shape(self) -> str:
        if self.path.suffix == ".pth":
            import torch

            sizes = [t.numel() for t in torch.load(self.path, weights_only=True, map_location="cpu").values()]
        else:
            from math import prod

            from safetensors import safe_open

            with safe_open(self.path / "model.safetensors", framework="np") as file:
                sizes = [prod(file.get_slice(k).get_shape()) for k in file.keys()]  # noqa: SIM118 - not a dictionary
        return f"{len(sizes)} tensors, {sum(sizes)} numbers"


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)


def _listed(names: Any, most: int = 8) -> str:
    names = [str(n) for n in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
