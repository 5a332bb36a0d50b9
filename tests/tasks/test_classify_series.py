import dataclasses
import json

import numpy
import pandas
import pytest

from gramian.atlas import apply as applying
from gramian.atlas import compare as comparing
from gramian.atlas.errors import UserError
from gramian.lab import Run
from gramian.tasks import classify_series
from gramian.tasks.support import persistence
from gramian.tasks.support.contract import Method, count_parameters, hold_out


def series(count=24, length=20, channels=2, seed=0):
    rng = numpy.random.default_rng(seed)
    labels = numpy.array(["calm", "wild"])[numpy.arange(count) % 2]
    x = rng.normal(size=(count, length, channels)) * numpy.where(labels == "wild", 3.0, 1.0)[:, None, None]
    return x, labels


@pytest.fixture
def npz(tmp_path):
    x, y = series()
    path = tmp_path / "mine.npz"
    numpy.savez(path, x=x, y=y)
    return str(path)


def test_the_split_is_fixed_stratified_and_disjoint(npz):
    first, second = classify_series.load(npz), classify_series.load(npz)
    assert numpy.array_equal(first.train, second.train)
    assert (len(first.train), len(first.test)) == (16, 8)
    assert sorted(first.test_labels) == ["calm"] * 4 + ["wild"] * 4
    rows, held = hold_out(numpy.array(["a", "b"] * 20), 0.25)
    assert sorted([*rows, *held]) == list(range(40))


def test_named_sets_keep_their_own_split():
    problem = classify_series.load("JapaneseVowels-eq")
    assert problem.train.shape == (270, 25, 12)
    assert problem.test.shape == (370, 25, 12)
    assert isinstance(classify_series.load("JapaneseVowels").train, list)


def test_a_table_of_series_and_json_lines_are_read(tmp_path):
    x, y = series(channels=1)
    frame = pandas.DataFrame(x[:, :, 0]).assign(label=y)
    frame.to_csv(tmp_path / "wide.csv", index=False)
    problem = classify_series.load(str(tmp_path / "wide.csv"), "label")
    assert problem.train.shape == (16, 20, 1)
    lines = [json.dumps({"x": s[: 10 + i % 3].tolist(), "y": label}) for i, (s, label) in enumerate(zip(x, y))]
    (tmp_path / "ragged.jsonl").write_text("\n".join(lines))
    ragged = classify_series.load(str(tmp_path / "ragged.jsonl"))
    assert isinstance(ragged.train, list)
    assert ragged.train[0].shape[1] == 1


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        (lambda f: f.drop(columns="label"), "label", "label"),
        (lambda f: f.assign(label="one"), "label", "in every row"),
        (lambda f: f.head(2), "label", "row|series|two"),
        (lambda f: f.assign(**{"3": [None, *f["3"][1:]]}), "label", "missing"),
        (lambda f: f.assign(**{"3": ["many", *f["3"][1:]]}), "label", "mixes numbers and text"),
        (lambda f: f.assign(word="text"), "label", "not numbers"),
    ],
)
def test_bad_tables_are_explained(tmp_path, change, target, message):
    x, y = series(channels=1)
    frame = pandas.DataFrame(x[:, :, 0]).rename(columns=str).assign(label=y)
    change(frame).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=message):
        classify_series.load(str(tmp_path / "bad.csv"), target)


def test_a_set_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no labelled series"):
        classify_series.load("brick")
    with pytest.raises(ValueError, match="regression"):
        classify_series.load("covid_3month")


def test_ridge_says_why_it_cannot_take_ragged_series(tmp_path):
    problem = classify_series.load("JapaneseVowels")
    with pytest.raises(ValueError, match=r"equal lengths, and these run from 7 to \d+"):
        classify_series.evaluate(classify_series.BASELINES["ridge"], problem, Run(tmp_path))


@pytest.mark.parametrize("name", ["augmented-covariance", "ridge"])
def test_a_saved_model_predicts_the_same(name, npz, tmp_path):
    metrics = applying.apply("classify-series", name, tmp_path / "out", data=npz)
    assert 0 <= metrics["accuracy"] <= 1
    written = (tmp_path / "out" / "predictions.csv").read_bytes()
    again = applying.reuse("classify-series", tmp_path / "out", data=npz, out=tmp_path / "again")
    assert again.read_bytes() == written
    frame = pandas.read_csv(again)
    assert set(frame.columns) >= {"series", "label", "predicted"}
    assert (frame["label"] == frame["predicted"]).mean() == pytest.approx(metrics["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(classify_series.METHODS) - {"augmented-covariance"}))
def test_every_network_is_applied_saved_and_used_again(name, npz, tmp_path, monkeypatch):
    build = classify_series.METHODS[name].build

    def short(seed):
        return build(seed).set_params(epochs=1)

    quick = dataclasses.replace(classify_series.METHODS[name], build=short)
    monkeypatch.setitem(classify_series.METHODS, name, quick)
    metrics = applying.apply("classify-series", name, tmp_path / "out", data=npz)
    assert 0 <= metrics["accuracy"] <= 1
    again = applying.reuse("classify-series", tmp_path / "out", data=npz, out=tmp_path / "again")
    assert again.read_bytes() == (tmp_path / "out" / "predictions.csv").read_bytes()
    frame = pandas.read_csv(again)
    assert frame["probability"].between(0.5, 1).all()
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    x, y = series()
    with pytest.raises(ValueError, match="unequal lengths"):
        short(0).fit([x[0][:15], *x[1:]], y)


def test_series_without_labels_are_predicted_all(npz, tmp_path):
    applying.apply("classify-series", "ridge", tmp_path / "out", data=npz)
    x, _ = series(count=5, seed=7)
    numpy.save(tmp_path / "new.npy", x)
    written = applying.reuse(
        "classify-series", tmp_path / "out", data=str(tmp_path / "new.npy"), out=tmp_path / "new", labelled=False
    )
    frame = pandas.read_csv(written)
    assert list(frame.columns) == ["series", "predicted"]
    assert len(frame) == 5
    with pytest.raises(UserError, match="holds no labelled series"):
        applying.reuse("classify-series", tmp_path / "out", data=str(tmp_path / "new.npy"), out=tmp_path / "new")


def test_a_network_is_saved_without_pickle_and_predicts_the_same(npz, tmp_path):
    from gramian.estimators.series import StateSpaceClassifier

    problem = classify_series.load(npz)
    model = StateSpaceClassifier(channels=8, depth=1, state_size=4, epochs=2).fit(problem.train, problem.train_labels)
    size = persistence.save(model, tmp_path / "model")
    assert size > 1000
    again = persistence.load(tmp_path / "model")
    assert numpy.array_equal(again.predict(problem.test), model.predict(problem.test))
    assert count_parameters(model) >= sum(p.numel() for p in model.network_.parameters())


def test_files_from_strangers_are_not_trusted(tmp_path, npz):
    with pytest.raises(ValueError, match="no saved model"):
        persistence.load(tmp_path)
    (tmp_path / "model.json").write_text('{"format": "own", "type": "os.system"}')
    with pytest.raises(ValueError, match=r"not one of gramian's"):
        persistence.load(tmp_path)
    with pytest.raises(UserError, match="was not written by"):
        applying.reuse("classify-series", tmp_path, data=npz, out=tmp_path / "x")


def test_an_output_folder_of_somebody_else_is_left_alone(npz, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        applying.apply("classify-series", "ridge", tmp_path / "mine", data=npz)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_compare_keeps_a_line_for_a_method_that_cannot(tmp_path):
    lines, report = comparing.compare(
        "classify-series", tmp_path, data="JapaneseVowels", methods=["augmented-covariance", "ridge"], seeds=1
    )
    assert [(line.method, line.status) for line in lines] == [("augmented-covariance", "ok"), ("ridge", "failed")]
    page = report.read_text()
    assert "needs equal lengths" in page
    assert "<svg" in page
    record = json.loads((tmp_path / "compare.json").read_text())
    assert record["seeds"] == [0]
    assert record["lines"][0]["seeds"][0]["accuracy"] > 0.85
    assert record["versions"]["torch"]
    assert set(lines[0].seeds[0]) >= {"fit_s", "predict_s", "peak_mb", "parameters", "bytes"}


def test_every_method_names_a_paper_or_is_a_baseline():
    from gramian.atlas.find.cards import Shelf

    papers = Shelf().papers
    assert all(m.paper in papers for m in classify_series.METHODS.values())
    assert all(isinstance(m, Method) and m.paper is None for m in classify_series.BASELINES.values())
