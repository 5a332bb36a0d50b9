"""MBAT with orthogonal matrices: records as vectors, bound by matrices that keep angles (Gallant, 2022)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from gramian.estimators import json_vsa
from gramian.lab import Card, Run
from gramian.linalg import vsa

CARD = Card(
    title='Orthogonal Matrices for MBAT Vector Symbolic Architectures, and a "Soft" VSA Representation for JSON',
    row=0,
    year=2022,
    kind="method",
    arxiv="2202.04771",
    idea="A record is a sum of its fields, each multiplied by the random matrix of its key. With orthogonal matrices "
    "the product keeps norms and angles at any depth and the transpose takes it apart again; any JSON becomes "
    "one vector.",
    claim="Gaussian binding matrices distort more with every level, orthogonal ones not at all; matrices keep the "
    "nesting order that commutative bindings lose; like records get like vectors, on which a linear model "
    "learns.",
    keywords=(
        "hyperdimensional computing",
        "hash",
        "embedding",
        "nested records",
        "binding",
        "similarity search",
        "nearest neighbour",
    ),
    api=(
        "gramian.linalg.vsa.Space",
        "gramian.estimators.json_vsa.JSONVectorizer",
        "gramian.linalg.manifold.orthogonal.haar",
        "gramian.linalg.signal.hadamard.fwht",
    ),
    use='codes = JSONVectorizer(dim=1024).fit_transform([{"name": "Ada", "langs": ["en", "fr"]}, {"name": "Bob"}])',
    differs=(
        "What makes the codes soft is our choice: strings are sums of their one- to three-letter pieces, numbers lie "
        "between the points of grids of four widths.",
        "Besides uniformly random orthogonal matrices there is a fast kind, three rounds of random signs and "
        "Hadamard transform, which JSONVectorizer uses by default. Products of k reflections save nothing: with k "
        "far below d they are so close to the identity that two roles almost commute.",
    ),
)


def experiment(run: Run, *, dim: int = 512) -> None:
    """Measure what orthogonal binding keeps, and what JSON codes are good for.

    Args:
        dim: length of the vectors in the distortion measurements; a power of two.
    """
    binding_keeps_geometry(run, dim=dim)
    binding_keeps_order(run)
    records_are_read_back(run, kind="hd" if run.quick else "haar")
    json_codes_are_repeatable(run)
    soft_codes_follow_likeness(run)
    if not run.quick:
        linear_model_learns_from_codes(run)


def binding_keeps_geometry(run: Run, *, dim: int = 512) -> None:
    """Norms, inner products and condition numbers after many bindings."""
    from matplotlib import pyplot

    depths = (1, 2, 4, 8, 16, 32, 64)
    worst: dict[str, list[float]] = {}
    for kind in ("haar", "householder", "hd", "gauss"):
        space = vsa.Space(dim, run.seed, kind)
        x = y = space.items([f"x{i}" for i in range(20)])
        gram, errors = x @ x.mT, []
        for depth in range(1, depths[-1] + 1):
            y = space.bind(f"role {depth % 16}", y)
            if depth in depths:
                errors.append(float((y @ y.mT - gram).abs().max()))
        worst[kind] = errors
        if kind != "gauss":
            claim = f"{kind}: largest change of a norm² or inner product of unit vectors, {depths[-1]} levels deep"
            run.check(claim, errors[-1], below=1e-5, paper="preserved exactly")
    run.check(
        "Gaussian matrices: the same change", worst["gauss"][-1], above=0.1, paper="instabilities grow with depth"
    )

    space = vsa.Space(dim, run.seed, "gauss", dtype=torch.float64)
    product, conditions = torch.eye(dim, dtype=torch.float64), []
    for depth in range(1, 17):
        product = space.bind(f"role {depth}", product)
        if depth in (1, 16):
            values = torch.linalg.svdvals(product)
            conditions.append(float((values[0] / values[-1]).log10()))
    run.check(
        "log10 of the condition number of one Gaussian matrix", conditions[0], between=(2.0, 5.0), paper="grows like d"
    )
    run.check("… and of a product of 16 (float64 resolves up to about 17)", conditions[1], above=15.0)

    figure, axis = pyplot.subplots()
    for kind, errors in worst.items():
        axis.loglog(depths, errors, marker="o", label=kind)
    axis.set_xlabel("levels of nesting")
    axis.set_ylabel("largest change of an inner product")
    axis.set_xticks(depths, depths)
    axis.minorticks_off()
    axis.legend()
    run.plot("distortion by depth", figure, f"20 unit vectors of length {dim}, bound again and again; float32.")


def binding_keeps_order(run: Run) -> None:
    """{"a": {"b": x}} against {"b": {"a": x}}, with matrices and with bindings that commute."""
    left, right = {"a": {"b": "x"}}, {"b": {"a": "x"}}
    rows = []
    for kind in ("haar", "householder", "hd", "multiply", "convolve"):
        codes = json_vsa.JSONVectorizer(1024, kind=kind, seed=run.seed).fit_transform([left, right])
        cosine = _cosine(codes[0], codes[1])
        rows.append({"binding": kind, "cosine": cosine})
        if kind in ("multiply", "convolve"):
            run.check(f'{kind} (commutes): cosine of {{"a": {{"b": x}}}} and {{"b": {{"a": x}}}}', cosine, above=0.9999)
        else:
            run.check(f"{kind}: |cosine| of the same two", abs(cosine), below=0.1, paper="binding must not commute")
    few = vsa.Space(1024, run.seed, "householder", reflections=32)
    x = few.item("x")
    swapped = few.bind("a", few.bind("b", x)) @ few.bind("b", few.bind("a", x))
    rows.append({"binding": "householder, 32 reflections only", "cosine": float(swapped)})
    run.table(
        "nesting order",
        rows,
        'Cosine between {"a": {"b": "x"}} and {"b": {"a": "x"}}; 1 means they cannot be told apart.',
    )


def records_are_read_back(run: Run, *, kind: str = "hd", dim: int = 2048) -> None:
    """Ten fields a record, each read back by the transpose and the nearest of 1000 items."""
    space = vsa.Space(dim, run.seed, kind)
    names = [f"item {i}" for i in range(1000)]
    records = 50
    chosen = run.rng().integers(len(names), size=(10, records))
    fields = [space.bind(f"field {k}", space.items([names[i] for i in chosen[k]])) for k in range(10)]
    bundle = space.bundle(fields)
    right = [
        found == names[i]
        for k in range(10)
        for found, i in zip(space.cleanup(space.unbind(f"field {k}", bundle), names), chosen[k])
    ]
    claim = f"{kind}, d = {dim}: share of fields of 10-field records read back among 1000 items"
    run.check(claim, float(np.mean(right)), above=0.99, paper="clean-up by the nearest codeword")


def _wine() -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Wine's table as JSON, through text: thirteen numbers in three nested objects and an array."""
    from sklearn.datasets import load_wine

    wine = load_wine()
    names = list(wine.feature_names)
    records = []
    for row in wine.data.tolist():
        value = dict(zip(names, row))
        nested = {
            "analysis": {k: value[k] for k in names[:5]},
            "phenols": {k: value[k] for k in names[5:9]},
            "colour": [value[k] for k in names[9:12]],
            names[12]: value[names[12]],
        }
        records.append(json.loads(json.dumps(nested)))
    return records, wine.data, wine.target


def json_codes_are_repeatable(run: Run) -> None:
    """Keys' order is irrelevant, arrays' order is not."""
    records = _wine()[0][:20]
    vectorizer = json_vsa.JSONVectorizer(seed=run.seed).fit(records)
    codes = vectorizer.transform(records)
    turned = vectorizer.transform([dict(reversed(record.items())) for record in records])
    run.check(
        "largest change of a code when the keys are written in another order",
        float(np.abs(codes - turned).max()),
        below=1e-5,
    )
    words = [{"tags": ["red", "dry", "old"]}, {"tags": ["old", "dry", "red"]}]
    sequence = json_vsa.JSONVectorizer(seed=run.seed, soft=False).fit_transform(words)
    bag = json_vsa.JSONVectorizer(seed=run.seed, soft=False, array="bag").fit_transform(words)
    claim = "cosine of an array of three and its reverse, positions bound (the middle agrees: 1/3)"
    run.check(claim, _cosine(*sequence), between=(0.2, 0.5))
    run.check("the same, arrays as bags", _cosine(*bag), above=0.9999)
    truth = [record["colour"][1] for record in records]
    candidates = sorted(set(truth))
    answers = {}
    for soft in (False, True):
        vectorizer = json_vsa.JSONVectorizer(soft=soft, seed=run.seed).fit(records)
        answers[soft] = [vectorizer.query(code, ("colour", 1), candidates) for code in vectorizer.transform(records)]
    exact = float(np.mean(np.equal(answers[False], truth)))
    run.check('wine: share of ["colour"][1] read back exactly from hard codes', exact, above=0.95)
    likeness = float(np.corrcoef(answers[True], truth)[0, 1])
    run.check("… from soft codes, which blur neighbours: correlation of answer and truth", likeness, above=0.9)


def soft_codes_follow_likeness(run: Run) -> None:
    """Like leaves are alike, and a record drifts away edit by edit."""
    from matplotlib import pyplot

    vectorizer = json_vsa.JSONVectorizer(seed=run.seed).fit([{"x": float(v)} for v in range(100)])
    for kind, triple in (
        ("numbers", (43, 42, 90)),
        ("strings", ("43", "42", "90")),
        ("strings", ("Riesling", "Rieslings", "Malbec")),
    ):
        middle, near, far = vectorizer.transform([{"x": v} for v in triple])
        claim = (
            f"{kind}: how much nearer {triple[0]!r} is to {triple[1]!r} than to {triple[2]!r} (difference of cosines)"
        )
        run.check(claim, _cosine(middle, near) - _cosine(middle, far), above=0.1, paper="like values have like codes")

    records = _wine()[0]
    rng = run.rng(1)
    curves = {}
    for soft in (True, False):
        model = json_vsa.JSONVectorizer(soft=soft, seed=run.seed).fit(records)
        similarity = np.zeros((20, 14))
        for trial in range(20):
            original, other = (records[i] for i in rng.choice(len(records), 2, replace=False))
            paths = (
                [(a, b) for a in ("analysis", "phenols") for b in original[a]]
                + [("colour", i) for i in range(3)]
                + [("proline",)]
            )
            edited, versions = json.loads(json.dumps(original)), [original]
            for index in rng.permutation(len(paths)):
                *inner, last = paths[index]
                place, source = edited, other
                for key in inner:
                    place, source = place[key], source[key]
                place[last] = source[last] + 1000.0  # far from every real value
                versions.append(json.loads(json.dumps(edited)))
            codes = model.transform(versions)
            similarity[trial] = [_cosine(codes[0], code) for code in codes]
        curves[soft] = similarity.mean(axis=0)
    steps = np.diff(curves[True])
    claim = "wine: largest change of the mean cosine from one edited field to the next"
    run.check(claim, float(steps.max()), below=-0.01, paper="similar objects have similar vectors")
    figure, axis = pyplot.subplots()
    for soft, curve in curves.items():
        axis.plot(curve, marker="o", label="soft" if soft else "hard")
    axis.set_xlabel("fields edited, of 13")
    axis.set_ylabel("cosine with the original record")
    axis.legend()
    run.plot(
        "similarity under edits",
        figure,
        "Wine records; fields replaced one after another by values far away. Mean of 20 records.",
    )


def linear_model_learns_from_codes(run: Run) -> None:
    """A logistic regression on codes of wine's JSON, against the raw table."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    records, table, target = _wine()
    folds = StratifiedKFold(5, shuffle=True, random_state=run.seed)
    raw = cross_val_score(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), table, target, cv=folds
    ).mean()
    rows = [{"features": "the raw table, scaled", "accuracy": float(raw)}]
    score = {}
    wrapped = np.empty(len(records), dtype=object)
    wrapped[:] = records
    for soft in (True, False):
        vectorizer = json_vsa.JSONVectorizer(soft=soft, seed=run.seed)
        model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=2000))
        score[soft] = float(cross_val_score(model, wrapped, target, cv=folds).mean())
        rows.append(
            {"features": f"{'soft' if soft else 'hard'} JSON codes, d = {vectorizer.dim}", "accuracy": score[soft]}
        )
    run.table("wine", rows, "Logistic regression, 5-fold cross-validation; nothing but JSON is read.")
    claim = "wine: accuracy of a logistic regression on JSON codes minus that on the raw table"
    run.check(claim, score[True] - float(raw), above=-0.03, paper="readily usable for machine learning")
    run.check(
        "wine: soft codes minus hard codes", score[True] - score[False], above=0.03, paper="the softness is what helps"
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
