import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gramian import data
from gramian.atlas import apply as applying
from gramian.atlas.errors import UserError
from gramian.lab import Run
from gramian.tasks import detect_anomalies as task
from gramian.tasks.support import persistence

needs_data = pytest.mark.skipif(
    not all(map(data.is_here, ("brick", "efficientnet_lite0"))), reason="gramian data fetch brick efficientnet_lite0"
)
EVERY = {**task.METHODS, **task.BASELINES}


def picture(rng, bad=False):
    """Stripes with noise; the bad ones hold a white square."""
    pixels = 100 + 40 * np.sin(np.arange(48) / 3 + rng.uniform(0, 0.3)) + rng.normal(0, 5, (40, 48))
    if bad:
        pixels[10:26, 10:26] = 255
    return pixels.clip(0, 255).astype(np.uint8)


def write(folder, count, rng, bad=False):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(picture(rng, bad)).save(folder / f"{i:02}.png")


@pytest.fixture
def folder(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "parts"
    write(root / "train" / "good", 16, rng)
    write(root / "test" / "good", 6, rng)
    write(root / "test" / "scratch", 4, rng, bad=True)
    write(root / "test" / "dent", 3, rng, bad=True)
    return root


@needs_data
def test_a_texture_becomes_crops():
    problem = task.load(task.DEFAULT)
    assert (len(problem.train), len(problem.test)) == (80, 80)
    assert sorted(set(problem.test_labels)) == ["normal", "turned patch"]
    assert problem.facts == {"train": 80, "test": 80, "anomalous": 40, "side": 128}
    again = task.load(task.DEFAULT)
    assert all((a == b).all() for a, b in zip(problem.test.items, again.test.items))


def test_an_image_file_is_a_texture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cloth.png")
    problem = task.load(str(tmp_path / "cloth.png"))
    assert problem.test.items[0].shape == (128, 128, 3)
    Image.fromarray(pixels[:100]).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="100 × 160 pixels holds no crops of 128"):
        task.load(str(tmp_path / "small.png"))


def test_a_folder_with_its_split(folder):
    problem = task.load(str(folder))
    assert (len(problem.train), len(problem.test)) == (16, 13)
    assert problem.facts["anomalous"] == 7
    assert problem.test.names[-1] == "test/scratch/03.png"
    assert problem.test_labels.tolist() == ["dent"] * 3 + ["good"] * 6 + ["scratch"] * 4


@needs_data
@pytest.mark.parametrize("name", list(EVERY))
def test_every_method_finds_squares_and_survives_saving(name, folder, tmp_path):
    problem = task.load(str(folder))
    figures, model = task.evaluate(EVERY[name], problem, Run(tmp_path / "run"))
    assert figures["auroc"] == 1.0
    assert figures["average_precision"] == pytest.approx(1.0)
    assert min(figures["fit_s"], figures["predict_s"]) > 0
    frame = task.predict(model, problem)
    assert list(frame.columns) == ["example", "label", "score", "anomalous"]
    bad = frame.label != "good"
    assert frame.score[bad].min() > frame.score[~bad].max()
    np.testing.assert_allclose(frame.score, -model.score_samples(problem.test.items))
    assert frame.anomalous.tolist() == (model.predict(problem.test.items) == -1).tolist()
    persistence.save(model, tmp_path / "model")
    pd.testing.assert_frame_equal(task.predict(persistence.load(tmp_path / "model"), problem), frame)


def test_the_pixel_baseline_calls_the_squares_anomalous_and_few_others(folder, tmp_path):
    problem = task.load(str(folder))
    frame = task.predict(task.evaluate(EVERY["pca-pixels"], problem, Run(tmp_path))[1], problem)
    assert frame.anomalous[frame.label != "good"].all()


def test_normal_pictures_alone_are_fitted_and_scored(folder, tmp_path):
    problem = task.load(str(folder / "train" / "good"))
    assert problem.test_labels is None
    figures, model = task.evaluate(EVERY["pca-pixels"], problem, Run(tmp_path))
    assert set(figures) == {"fit_s", "predict_s"}
    assert list(task.predict(model, problem).columns) == ["example", "score", "anomalous"]


@needs_data
def test_apply_then_load_is_identical(folder, tmp_path):
    metrics = applying.apply("detect-anomalies", "gaussian-ad-npca", tmp_path / "kept", data=str(folder))
    assert metrics["auroc"] == 1.0
    made = pd.read_csv(tmp_path / "kept" / "predictions.csv")
    assert len(made) == 13
    again = applying.reuse("detect-anomalies", tmp_path / "kept", data=str(folder), out=tmp_path / "again")
    assert again.read_bytes() == (tmp_path / "kept" / "predictions.csv").read_bytes()


def test_nearest_neighbours_by_hand():
    x = np.array([[0.0], [1.0], [2.0], [4.0]])
    model = task.NeighbourDistance(neighbours=2).fit(x)
    np.testing.assert_allclose(model.score_samples(np.array([[1.0], [10.0]])), [-0.5, -7.0])
    assert model.predict(np.array([[1.0], [10.0]])).tolist() == [1, -1]
    with pytest.raises(ValueError, match="1 normal example"):
        task.NeighbourDistance().fit(x[:1])


def test_a_residual_is_the_distance_to_the_line():
    x = np.outer(np.linspace(-1, 1, 9), [3.0, 4.0])
    model = task.PCAResidual().fit(x)
    assert -model.score_samples(np.array([[4.0, -3.0]]))[0] == pytest.approx(5)
    assert -model.score_samples(np.array([[30.0, 40.0]]))[0] == pytest.approx(0, abs=1e-9)


def test_a_text_file_called_png_is_refused(folder):
    (folder / "train" / "good" / "notes.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"notes\.png is called an image but is none"):
        task.load(str(folder))


def test_folders_laid_out_otherwise_are_refused(folder, tmp_path):
    rng = np.random.default_rng(1)
    write(tmp_path / "loose" / "cats", 2, rng)
    with pytest.raises(ValueError, match="has the folders cats but no train/"):
        task.load(str(tmp_path / "loose"))
    write(tmp_path / "half" / "train", 2, rng)
    with pytest.raises(ValueError, match="has train/ but not test/"):
        task.load(str(tmp_path / "half"))
    write(tmp_path / "half" / "test" / "good", 2, rng)
    with pytest.raises(ValueError, match="holds normal pictures alone"):
        task.load(str(tmp_path / "half"))
    write(folder / "train" / "crack", 2, rng)
    with pytest.raises(ValueError, match="has the folder 'crack'; only normal"):
        task.load(str(folder))


def test_other_data_and_a_target_are_refused(tmp_path):
    with pytest.raises(ValueError, match="target='label'"):
        task.load("brick", target="label")
    np.save(tmp_path / "series.npy", np.zeros((5, 3)))
    with pytest.raises(ValueError, match="give a texture"):
        task.load(str(tmp_path / "series.npy"))
    (tmp_path / "one").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        applying.apply("detect-anomalies", "pca-pixels", tmp_path / "out", data=str(tmp_path / "one"))


@pytest.fixture
def machines(tmp_path):
    """Two readings that rise together where all is well."""
    rng = np.random.default_rng(0)
    heat = rng.normal(60, 5, 130)
    speed = 2 * heat + rng.normal(0, 1, 130)
    speed[100:] -= 15
    frame = pd.DataFrame({"heat": heat, "speed": speed, "state": ["ok"] * 100 + ["worn"] * 30})
    frame.to_csv(tmp_path / "machines.csv", index=False)
    return tmp_path / "machines.csv"


@pytest.mark.parametrize("name", list(EVERY))
def test_rows_of_a_table(name, machines, tmp_path):
    problem = task.load(str(machines), "state")
    assert problem.facts == {"train": 50, "test": 80, "examples": "rows", "anomalous": 30}
    figures, model = task.evaluate(EVERY[name], problem, Run(tmp_path / "run"))
    gaussian = name.startswith("gaussian")
    assert figures["auroc"] > (0.99 if gaussian else 0.6), figures  # the pair is unlikely, each reading is not
    frame = task.predict(model, problem)
    assert frame.example[0].startswith("row ")
    persistence.save(model, tmp_path / "model")
    pd.testing.assert_frame_equal(task.predict(persistence.load(tmp_path / "model"), problem), frame)


def test_the_normal_value_of_a_table(machines):
    problem = task.load(str(machines), "state", normal="worn")
    assert problem.facts["train"] == 15
    assert set(problem.test_labels) == {"normal", "ok"}
    with pytest.raises(ValueError, match="normal='broken'"):
        task.load(str(machines), "state", normal="broken")
    with pytest.raises(ValueError, match="stage"):
        task.load(str(machines), "stage")
    with pytest.raises(ValueError, match="has text in state: name the column"):
        task.load(str(machines))
    pd.read_csv(machines).drop(columns="state").to_csv(machines.with_name("plain.csv"), index=False)
    assert task.load(str(machines.with_name("plain.csv"))).test_labels is None


def write_texts(root):
    """Sentences on cooking, and some on ships."""
    dishes = ("soup", "bread", "rice", "pasta", "salad", "cake", "stew", "pie", "curry", "omelette")
    meals = [f"Season the {d} with salt and let it cook on a low flame until {w}." for d in dishes for w in ("soft", "brown", "done")]  # fmt: skip # noqa: E501
    ships = [f"The {s} left the harbour at dawn and sailed north against the wind." for s in ("frigate", "schooner", "ferry", "brig")]  # fmt: skip # noqa: E501
    for folder, texts in (("train/good", meals[:20]), ("test/good", meals[20:]), ("test/ships", ships)):
        (root / folder).mkdir(parents=True)
        for k, text in enumerate(texts):
            (root / folder / f"{k:02}.txt").write_text(text)
    return meals, ships


@pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")
def test_texts_in_folders_and_in_a_column(tmp_path):
    meals, ships = write_texts(tmp_path / "texts")
    problem = task.load(str(tmp_path / "texts"))
    assert problem.facts == {"train": 20, "test": 14, "examples": "texts", "anomalous": 4}
    for name, method in EVERY.items():
        figures, model = task.evaluate(method, problem, Run(tmp_path / name))
        assert figures["auroc"] > 0.9, (name, figures)
    assert task.predict(model, problem).example.iloc[-1] == "test/ships/03.txt"
    frame = pd.DataFrame({"text": meals + ships, "kind": ["meal"] * 30 + ["ship"] * 4})
    frame.to_csv(tmp_path / "texts.csv", index=False)
    column = task.load(str(tmp_path / "texts.csv"), "kind")
    assert column.facts["anomalous"] == 4
    figures, _ = task.evaluate(EVERY["gaussian-ad"], column, Run(tmp_path / "column"))
    assert figures["auroc"] > 0.9


def test_pictures_with_a_readme_beside_them_are_pictures(folder):
    (folder / "readme.txt").write_text("Pictures of parts.")
    assert len(task.load(str(folder)).train) == 16
    assert task.load(str(folder)).facts.get("examples") is None


def test_texts_laid_out_otherwise_are_refused(tmp_path):
    write_texts(tmp_path / "texts")
    odd = tmp_path / "texts" / "train" / "odd" / "0.txt"
    odd.parent.mkdir()
    odd.write_text("The ferry sails.")
    with pytest.raises(ValueError, match="has the folder 'odd'; only normal texts"):
        task.load(str(tmp_path / "texts"))
    for file in (tmp_path / "texts" / "train").rglob("*.txt"):
        file.unlink()
    with pytest.raises(ValueError, match="texts in test/ but not in train/"):
        task.load(str(tmp_path / "texts"))
    (tmp_path / "texts" / "train" / "empty.txt").write_text(" ")
    problem = task.load(str(tmp_path / "texts"))
    with pytest.raises(ValueError, match="text with words"):
        task.evaluate(EVERY["gaussian-ad"], problem, Run(tmp_path / "run"))


@needs_data
def test_one_normal_picture_is_too_few(folder, tmp_path):
    for file in sorted((folder / "train" / "good").iterdir())[1:]:
        file.unlink()
    problem = task.load(str(folder))
    for name in ("gaussian-ad", "gaussian-ad-npca", "knn-distance", "pca-pixels"):
        with pytest.raises(ValueError, match=r"at least 2|minimum of 2"):
            task.evaluate(EVERY[name], problem, Run(tmp_path))
