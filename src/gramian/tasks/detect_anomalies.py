"""Detect anomalies: which examples are unlike the normal ones?

The data are pictures: a texture (a named picture of ``gramian data list``, or an image file), whose crops are the
normal pictures and of which some test crops hold a patch turned by 90 degrees; or a folder with ``train/`` (normal
pictures, loose or in ``good/``) and ``test/`` with one folder a kind, where ``good`` or ``normal`` are normal and all
others anomalous; or a folder of normal pictures alone. A folder of text files is laid out alike. Of a table (a name, or
a CSV) with ``--target COLUMN`` half of the normal rows are learned from (``--set normal=VALUE``, by default the most
frequent); a single column of text is read as texts. Pictures are judged by EfficientNet-Lite0's levels, texts by
MiniLM's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy
import pandas
from sklearn.base import BaseEstimator, OutlierMixin, TransformerMixin

from gramian import data as sets
from gramian.estimators.anomaly.examples import kind_of
from gramian.lab import Run
from gramian.tasks.support.contract import Method, Problem, fit_timed
from gramian.tasks.support.examples import NORMAL, Examples, Split, read_texts, split_table

TITLE = "Detect anomalies"
HEADLINE = "auroc"
METRICS = {"auroc": "higher", "average_precision": "higher"}
DEFAULT = "brick"

SHARE = 0.9973  # of the normal pictures that a threshold is to leave alone


def _gaussian_ad(seed: int, reduction: str | None = None) -> Any:
    from sklearn.pipeline import make_pipeline

    from gramian.estimators.anomaly import GaussianAD
    from gramian.estimators.anomaly.examples import ExampleFeatures

    return make_pipeline(ExampleFeatures(), GaussianAD(reduction))


def _gaussian_ad_npca(seed: int) -> Any:
    return _gaussian_ad(seed, "npca")


def _on_features(detector: Any) -> Any:
    """A detector behind the same features as ours, standardized."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from gramian.estimators.anomaly.examples import ExampleFeatures

    return make_pipeline(ExampleFeatures(join=True), StandardScaler(), detector)


def _isolation_forest(seed: int) -> Any:
    from sklearn.ensemble import IsolationForest

    return _on_features(IsolationForest(random_state=seed))


def _nearest_neighbours(seed: int) -> Any:
    return _on_features(NeighbourDistance())


def _pca_pixels(seed: int) -> Any:
    from sklearn.pipeline import make_pipeline

    return make_pipeline(PlainFeatures(), PCAResidual())


METHODS = {
    "gaussian-ad": Method(_gaussian_ad, "a Gaussian over each level of a trained network", paper="gaussian_ad"),
    "gaussian-ad-npca": Method(
        _gaussian_ad_npca, "the same over the directions of least variance alone", paper="gaussian_ad"
    ),
}
BASELINES = {
    "isolation-forest": Method(_isolation_forest, "isolation forest on the same features (scikit-learn)"),
    "knn-distance": Method(_nearest_neighbours, "distance to the nearest normal examples, same features"),
    "pca-pixels": Method(
        _pca_pixels,
        "what principal components leave unexplained of the pixels, of the words (TF-IDF), or of the columns",
    ),
}


class _Thresholded(OutlierMixin, BaseEstimator):
    """An outlier detector whose threshold is a quantile of the training examples' own scores."""

    def decision_function(self, X: Any) -> numpy.ndarray:
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> numpy.ndarray:
        return numpy.where(self.decision_function(X) < 0, -1, 1)


class NeighbourDistance(_Thresholded):
    """Minus the mean distance to the `neighbours` nearest training rows."""

    def __init__(self, neighbours: int = 5) -> None:
        self.neighbours = neighbours

    def fit(self, X: Any, y: object = None) -> NeighbourDistance:
        from sklearn.neighbors import NearestNeighbors

        if len(X) < 2:
            raise ValueError(f"{len(X)} normal example given; a nearest neighbour needs at least 2")
        self.index_ = NearestNeighbors(n_neighbors=min(self.neighbours, len(X) - 1), algorithm="brute").fit(X)
        own = -self.index_.kneighbors()[0].mean(axis=1)  # without itself
        self.offset_ = float(numpy.quantile(own, 1 - SHARE))
        return self

    def score_samples(self, X: Any) -> numpy.ndarray:
        return -self.index_.kneighbors(X)[0].mean(axis=1)


class PCAResidual(_Thresholded):
    """Minus the distance to the subspace of the principal components that hold `variance` of the training rows."""

    def __init__(self, variance: float = 0.95) -> None:
        self.variance = variance

    def fit(self, X: Any, y: object = None) -> PCAResidual:
        from sklearn.decomposition import PCA

        if len(X) < 2:
            raise ValueError(f"{len(X)} normal example given; principal components need at least 2")
        self.pca_ = PCA(self.variance, svd_solver="full").fit(X)
        self.offset_ = float(numpy.quantile(self.score_samples(X), 1 - SHARE))
        return self

    def score_samples(self, X: Any) -> numpy.ndarray:
        return -numpy.linalg.norm(X - self.pca_.inverse_transform(self.pca_.transform(X)), axis=1)


class PlainFeatures(TransformerMixin, BaseEstimator):
    """Examples without any network: grey values of small pictures, weights of words, standardized columns.

    Args:
        side: to which pictures are resized.
    """

    def __init__(self, side: int = 64) -> None:
        self.side = side

    def fit(self, X: Any, y: object = None) -> PlainFeatures:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.preprocessing import StandardScaler

        from gramian.estimators.anomaly.examples import kind_of

        self.kind_ = kind_of(X)
        if self.kind_ == "texts":
            self.reader_ = TfidfVectorizer(sublinear_tf=True).fit(X)
        if self.kind_ == "rows":
            self.reader_ = StandardScaler().fit(numpy.stack(X))
        return self

    def transform(self, X: Any) -> numpy.ndarray:
        if self.kind_ == "texts":
            return self.reader_.transform(X).toarray()
        if self.kind_ == "rows":
            return self.reader_.transform(numpy.stack(X))
        from PIL import Image

        size = (self.side, self.side)
        small = [Image.fromarray(x).convert("L").resize(size, Image.Resampling.BILINEAR) for x in X]
        return numpy.stack([numpy.asarray(x, dtype=numpy.float64).ravel() for x in small]) / 255


def load(data: str, target: str | None = None, *, normal: str = "", labelled: bool = True) -> Problem:
    """Cut a texture into crops, or read a folder or a table of the user's.

    Args:
        data: the name of a picture or a table in the catalogue, an image file, a CSV, or a folder of pictures or texts.
        target: the column of a table that says what a row is; labels of folders are their names.
        normal: the target's value of normal rows; without it good, normal, or the most frequent.
        labelled: False to read a folder for prediction alone: normal pictures or several kinds need not be there,
            and a folder without train/ and test/ is scored whole.

    Raises:
        ValueError: data of another kind, a `target` where there are no columns, or a folder not laid out as above.
    """
    path = Path(data)
    if path.is_dir() and target is None:
        texts = read_texts(path)
        return _folder(path, labelled) if texts is None else _problem(path.name, texts, "texts", labelled)
    found = None
    if not path.is_dir():
        found = sets.read(path, target) if path.exists() else sets.load(data)
    if isinstance(found, sets.Table):
        if target is not None and target not in found.frame:
            raise ValueError(f"target={target!r}: the columns of {data} are {', '.join(found.frame.columns[:8])}")
        chosen = sets.Table(found.name, found.frame, target or found.target)
        split = split_table(chosen, normal)
        return _problem(chosen.name, split, kind_of(split.train.items), labelled)
    if target is not None:
        raise ValueError(f"target={target!r}: pictures and texts have no columns; the folders in test/ are labels")
    if not isinstance(found, sets.Image):
        raise ValueError(
            f"{data} holds {type(found).__name__}: give a texture (brick, grass), an image file, a table, or a folder "
            "of pictures or texts with train/ and test/good, test/<kind of anomaly>"
        )
    return _texture(found)


def _problem(name: str, split: Split, what: str, labelled: bool) -> Problem:
    """A table or a folder of texts."""
    facts: dict[str, Any] = {"train": len(split.train), "test": len(split.test), "examples": what}
    note = "No labels: fitted on all examples, which count as normal, and scored on the same."
    if split.train is not split.test:
        note = "The test examples have no labels."
    if split.labels is not None:
        bad = _is_anomalous(split.labels)
        if labelled and (bad.all() or not bad.any()):
            raise ValueError(f"{name}: the test examples are all {'anomalous' if bad.all() else 'normal'}")
        facts["anomalous"] = int(bad.sum())
        note = "Learned from normal examples alone."
    return Problem(name, split.train, None, split.test, split.labels, note, facts)


def _texture(picture: Any) -> Problem:
    from gramian.data.synthetic.texture_anomalies import texture_crops

    crops = texture_crops(picture.pixels, numpy.random.default_rng(0))
    labels = numpy.where(crops.anomalous, "turned patch", "normal")
    train = Examples(list(crops.train), [f"train crop {i}" for i in range(len(crops.train))])
    test = Examples(list(crops.test), [f"crop {i}" for i in range(len(crops.test))])
    note = (
        f"Crops of one texture; the anomalous ones hold a patch of {crops.patch} pixels turned by 90 degrees. "
        "Training and test crops overlap: this asks for the patch, not for another wall."
    )
    facts = {
        "train": len(train),
        "test": len(test),
        "anomalous": int(crops.anomalous.sum()),
        "side": crops.test.shape[1],
    }
    return Problem(picture.name, train, None, test, labels, note, facts)


def _folder(path: Path, labelled: bool) -> Problem:
    """The user's folder: train/ and test/<kind>/, or normal pictures alone."""
    parts = {part: path / part for part in ("train", "test")}
    here = [name for name, folder in parts.items() if folder.is_dir()]
    if not here:
        found = _images(path)
        if found.labels is not None and labelled:
            kinds = ", ".join(sorted(set(found.labels.tolist())))
            raise ValueError(
                f"{path} has the folders {kinds} but no train/: put normal pictures into train/ and the others into "
                "test/good and test/<kind of anomaly>, or give a folder of normal pictures alone"
            )
        pictures = _pictures(found, path)
        note = "No labels: fitted on all pictures, which count as normal, and scored on the same."
        return Problem(path.name, pictures, None, pictures, None, note, {"pictures": len(pictures)})
    if here == ["train"] or here == ["test"]:
        raise ValueError(f"{path} has {here[0]}/ but not {'test' if here == ['train'] else 'train'}/; both are needed")
    train, test = _images(parts["train"]), _images(parts["test"])
    strange = sorted(set(() if train.labels is None else train.labels.tolist()) - set(NORMAL))
    if strange:
        raise ValueError(
            f"{parts['train']} has the folder {strange[0]!r}; only normal pictures (good/) are learned from"
        )
    known, new = _pictures(train, path), _pictures(test, path)
    labels = None if test.labels is None else test.labels.astype(str)
    facts = {"train": len(known), "test": len(new)}
    if labels is not None:
        bad = _is_anomalous(labels)
        if labelled and (bad.all() or not bad.any()):
            only = "anomalous" if bad.all() else "normal"
            raise ValueError(
                f"{parts['test']} holds {only} pictures alone; to measure, both good/ and another are needed"
            )
        facts["anomalous"] = int(bad.sum())
    note = "The split that the folder has." if labels is not None else "The test pictures have no labels."
    return Problem(path.name, known, None, new, labels, note, facts)


def _images(folder: Path) -> Any:
    found = sets.read(folder)
    if not isinstance(found, sets.ImageSet):
        raise ValueError(f"{folder} holds series, not pictures")
    return found


def _pictures(found: Any, root: Path) -> Examples:
    return Examples(list(found.images), [str(f.relative_to(root)) for f in found.files])


def _is_anomalous(labels: Any) -> numpy.ndarray:
    return ~numpy.isin(labels, NORMAL)


def evaluate(method: Method, problem: Problem, run: Run) -> tuple[dict[str, float], Any]:
    """Fit on the normal examples, score the test examples; returns the figures and the fitted model.

    The features are computed within fit and predict, so that they count as cost. Without labels only the
    cost is measured.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    model = method.build(run.seed)
    fit_s = fit_timed(model, problem.train.items, None)
    start = time.perf_counter()
    score = -model.score_samples(problem.test.items)
    predict_s = time.perf_counter() - start
    figures = {"fit_s": fit_s, "predict_s": predict_s}
    if problem.test_labels is not None:
        truth = _is_anomalous(problem.test_labels)
        figures |= {
            "auroc": float(roc_auc_score(truth, score)),
            "average_precision": float(average_precision_score(truth, score)),
        }
    return figures, model


def predict(model: Any, problem: Problem) -> pandas.DataFrame:
    """A row a test example: its name, label where known, score (larger is more anomalous), and the verdict."""
    frame = pandas.DataFrame({"example": problem.test.names})
    if problem.test_labels is not None:
        frame["label"] = problem.test_labels
    decision = model.decision_function(problem.test.items)
    inner = model[-1] if hasattr(model, "steps") else model
    frame["score"] = -(decision + inner.offset_)
    frame["anomalous"] = decision < 0
    return frame
