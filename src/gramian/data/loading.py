"""Opens a fetched set: one reader a kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gramian.data import store
from gramian.data.catalogue import Entry, entry
from gramian.data.formats.idx import read_idx
from gramian.data.formats.ts import as_array, read_ts, read_tsf
from gramian.data.kinds import (
    Graph,
    Image,
    LabelledImages,
    LabelledSeries,
    Series,
    SeriesSet,
    Stereo,
    Table,
    Triples,
    Weights,
)


def load(name: str) -> Any:
    """Open the data set `name`; what comes back depends on its kind (see `gramian.data.kinds`).

    Raises:
        ValueError: the catalogue has no such name.
        Missing: the set, or the package it comes from, is not on this machine.
    """
    found = entry(name)
    return READERS[found.reader](found)


def _labelled_series(found: Entry) -> LabelledSeries:
    parts = [read_ts(file, regression=found.options.get("regression")) for file in store.files(found)]
    (x_train, y_train), (x_test, y_test) = parts
    both = as_array(x_train + x_test)  # ragged if any two differ, in whichever part
    if isinstance(both, list):
        return LabelledSeries(found.name, x_train, y_train, x_test, y_test)
    return LabelledSeries(found.name, both[: len(x_train)], y_train, both[len(x_train) :], y_test)


def _labelled_series_npz(found: Entry) -> LabelledSeries:
    with np.load(store.path(found.name), allow_pickle=False) as z:
        return LabelledSeries(found.name, z["X_train"], z["y_train"].astype(str), z["X_test"], z["y_test"].astype(str))


def _frame(file: Path, options: dict[str, Any]) -> pd.DataFrame:
    known = {k: options[k] for k in ("sep", "quotechar") if k in options}
    if file.suffix == ".json":
        frame = pd.read_json(file)
    else:
        frame = pd.read_csv(file, header=options.get("header", "infer"), **known)
    if "columns" in options:
        frame.columns = list(options["columns"])
    return frame.drop(columns=list(options.get("drop", ())))


def _table(found: Entry) -> Table:
    frame = _frame(store.path(found.name), found.options)
    frame.columns = [str(c) for c in frame.columns]
    return Table(found.name, frame, found.options.get("target"), found.options.get("event"))


def _sklearn_table(found: Entry) -> Table:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{found.options['load']}")(as_frame=True)
    return Table(found.name, bunch.frame, "target" if "target" in bunch.frame.columns else None)


def _series(found: Entry) -> Series:
    label = found.options.get("label")
    frames = [_frame(file, found.options) for file in store.files(found)]
    values = [f.drop(columns=[label] if label else []) for f in frames]
    points = tuple(found.options.get("change_points", ()))
    labels = None
    if label:
        labels = frames[0][label].to_numpy(np.int64)
    elif points:  # the number of changes so far
        labels = np.searchsorted(np.array(points), np.arange(len(frames[0])), side="right").astype(np.int64)
    arrays = [v.to_numpy(np.float64) for v in values]
    columns = tuple(str(c) for c in values[0].columns)
    return Series(found.name, arrays[0], columns, labels, arrays[1] if len(arrays) > 1 else None, points)


def _series_set(found: Entry) -> SeriesSet:
    series, horizon = read_tsf(store.path(found.name))
    return SeriesSet(found.name, series, horizon)


def _pixels(file: Path, mode: str | None = None) -> np.ndarray:
    from PIL import Image as Pillow

    with Pillow.open(file) as picture:
        wanted = mode or ("L" if picture.mode in ("1", "L", "LA") else "RGB")
        return np.asarray(picture.convert(wanted))


def _image(found: Entry) -> Image:
    return Image(found.name, _pixels(store.path(found.name), found.options.get("mode")))


def _stereo(found: Entry) -> Stereo:
    left, right, disparity = store.files(found)
    with np.load(disparity, allow_pickle=False) as z:
        return Stereo(found.name, _pixels(left), _pixels(right), z["arr_0"])


def _digits(found: Entry) -> LabelledImages:
    table = np.loadtxt(store.path(found.name), delimiter=",")
    labels = table[:, -1].astype(np.int64)
    return LabelledImages(found.name, table[:, :-1].reshape(-1, 8, 8), labels, tuple("0123456789"))


def _idx_images(found: Entry) -> LabelledImages:
    images, labels = (read_idx(file) for file in store.files(found))
    return LabelledImages(found.name, images, labels.astype(np.int64), tuple("0123456789"))


def _faces(found: Entry) -> LabelledImages:
    images = np.load(store.path(found.name), allow_pickle=False)
    labels = (np.arange(len(images)) < len(images) // 2).astype(np.int64)  # the first half are faces
    return LabelledImages(found.name, images, labels, ("no face", "face"))


def _triples(found: Entry) -> Triples:
    rows = [
        [line.split("\t") for line in f.read_text(encoding="utf-8").splitlines() if line] for f in store.files(found)
    ]
    facts, literals = rows[:3], [(e, a, float(v)) for e, a, v in (rows[3] if len(rows) > 3 else [])]
    entities = sorted({e for part in facts for h, _, t in part for e in (h, t)})
    relations = sorted({r for part in facts for _, r, _ in part})
    at_entity, at_relation = ({name: i for i, name in enumerate(names)} for names in (entities, relations))
    train, valid, test = (
        np.array([(at_entity[h], at_relation[r], at_entity[t]) for h, r, t in part], dtype=np.int64) for part in facts
    )
    return Triples(found.name, tuple(entities), tuple(relations), train, valid, test, literals)


def _networkx_graph(found: Entry) -> Graph:
    import networkx

    return Graph(found.name, getattr(networkx, found.options["function"])())


class GraphList(list[Graph]):
    """Several graphs."""

    @property
    def shape(self) -> str:
        sizes = [g.graph.number_of_nodes() for g in self]
        return f"{len(self)} graphs of {min(sizes)}..{max(sizes)} nodes"


def _networkx_graphs(found: Entry) -> GraphList:
    import networkx

    graphs = getattr(networkx, found.options["function"])()
    return GraphList(Graph(f"{found.name}/{i}", g) for i, g in enumerate(graphs))


def _sknetwork_graph(found: Entry) -> Graph:
    store.path(found.name)  # says how to install it where it is not
    import networkx
    from sknetwork.data import toy_graphs

    data = getattr(toy_graphs, found.options["function"])(metadata=True)
    features = data.biadjacency.toarray().astype(np.float64) if "biadjacency" in data and "adjacency" in data else None
    if "adjacency" in data:
        matrix = data.adjacency
        directed = (matrix != matrix.T).nnz > 0
        graph = networkx.from_scipy_sparse_array(matrix, create_using=networkx.DiGraph if directed else networkx.Graph)
        names = data.get("names")
    else:
        graph = networkx.bipartite.from_biadjacency_matrix(data.biadjacency)
        names = [*data.names_row, *data.names_col]
    if names is not None:
        graph = networkx.relabel_nodes(graph, dict(enumerate(map(str, names))))
    return Graph(found.name, graph, features)


def _weights(found: Entry) -> Weights:
    return Weights(found.name, store.path(found.name))


class ClassNames(tuple[str, ...]):
    """Names of classes, in the order of a network's outputs."""

    @property
    def shape(self) -> str:
        return f"{len(self)} names"


def _class_names(found: Entry) -> ClassNames:
    order, lemmas = store.files(found)
    names = dict(line.split("\t", 1) for line in lemmas.read_text(encoding="utf-8").splitlines() if line)
    return ClassNames(names[synset] for synset in order.read_text(encoding="utf-8").split())


class FontFile(str):
    """Path of a font file."""

    @property
    def shape(self) -> str:
        return Path(self).name


def _font(found: Entry) -> FontFile:
    return FontFile(store.path(found.name))


READERS: dict[str, Callable[[Entry], Any]] = {
    "class_names": _class_names,
    "digits": _digits,
    "faces": _faces,
    "font": _font,
    "idx_images": _idx_images,
    "image": _image,
    "labelled_series": _labelled_series,
    "labelled_series_npz": _labelled_series_npz,
    "networkx_graph": _networkx_graph,
    "networkx_graphs": _networkx_graphs,
    "series": _series,
    "series_set": _series_set,
    "sklearn_table": _sklearn_table,
    "sknetwork_graph": _sknetwork_graph,
    "stereo": _stereo,
    "table": _table,
    "triples": _triples,
    "weights": _weights,
}
