"""Explaining pictures: maps that point at what counts, a user's pictures and network, files that load again."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import explain_image as task
from gramian.tasks.support import persistence

MAKE = """from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 2, 8, stride=8, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A network that counts red in class 0 and blue in class 1, and two pictures with a red patch each."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "net.py").write_text(MAKE)
    weight = torch.zeros(2, 3, 8, 8)
    weight[0, 0], weight[0, 2], weight[1, 2], weight[1, 0] = 1, -1, 1, -1
    save_file({"0.weight": weight}, folder / "net.safetensors")
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, at in (("left", 16), ("right", 160)):
        pixels = np.full((256, 256, 3), 127, np.uint8)
        pixels[96:160, at : at + 64] = (250, 127, 20)
        Image.fromarray(pixels).save(pictures / f"{name}.png")
    return folder


def options(folder):
    return {"weights": str(folder / "net.safetensors"), "factory": f"{folder / 'net.py'}:make", "layer": "1"}


def test_every_method_finds_the_patch_that_a_users_network_goes_by(mine, tmp_path):
    problem = task.load(str(mine / "pictures"), **options(mine))
    assert problem.train.words == ("class 0", "class 0")
    found = {}
    for name, method in {**task.METHODS, **task.BASELINES}.items():
        figures, explained = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
        found[name] = figures
        frame = task.predict(explained, problem)
        if name != "chance":
            assert frame["left"][0] < frame["right"][0] <= 120, name
            assert frame["left"][1] >= 100, name
    for name in set(found) - {"chance"}:
        assert found[name]["faithfulness"] > found["chance"]["faithfulness"], found


def test_what_was_saved_explains_again_and_shows_pictures(mine, tmp_path):
    settings = [f"{k}={v}" for k, v in options(mine).items()]
    figures = apply.apply("explain-image", "grad-cam", tmp_path / "out", data=str(mine / "pictures"), settings=settings)
    assert set(task.METRICS) <= set(figures)
    shown = np.asarray(Image.open(tmp_path / "out" / "model" / "left.png"))
    assert shown.shape == (224, 224, 3)
    assert shown[100:110, 30:40, 0].mean() > 2 * shown[100:110, 180:200, 0].mean()
    apply.reuse("explain-image", tmp_path / "out", data=str(mine / "pictures" / "left.png"), out=tmp_path / "again")
    table = (tmp_path / "again" / "predictions.csv").read_text().splitlines()
    assert len(table) == 2
    assert table[0].startswith("picture,answer")


def test_an_explanation_of_nothing_and_a_foreign_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no map"):
        task.Explanation("eigen-cam").save(tmp_path / "m.safetensors")
    (tmp_path / "m.method.json").write_text('{"method": "crystal-ball"}')
    with pytest.raises(ValueError, match="crystal-ball"):
        task.Explanation.load(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="no saved model"):
        persistence.load(tmp_path / "nowhere")


def test_bad_input(mine, tmp_path):
    pictures = str(mine / "pictures")
    for match, settings in (
        ("layer=NAME", {**options(mine), "layer": ""}),
        ("no layer 'head'", {**options(mine), "layer": "head"}),
        ("classes 0 to 1", {**options(mine), "label": 7}),
    ):
        with pytest.raises(ValueError, match=match):
            task.load(pictures, **settings)
    with pytest.raises(ValueError, match="no columns"):
        task.load(pictures, target="y", **options(mine))
    with pytest.raises(ValueError, match="not pictures"):
        task.load("wine")
    (tmp_path / "flat.py").write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(3, 2))\n")
    flat = tmp_path / "flat.safetensors"
    save_file(nn.Sequential(nn.Linear(3, 2)).state_dict(), flat)
    with pytest.raises(ValueError, match="does not take pictures"):
        task.load(pictures, weights=str(flat), factory=f"{tmp_path / 'flat.py'}:make", layer="0")


def test_facets_of_a_class_show_what_the_network_looks_for(mine, tmp_path):
    settings = [f"{k}={v}" for k, v in (options(mine) | {"facets": 2}).items()]
    apply.apply("explain-image", "grad-cam", tmp_path / "out", data=str(mine / "pictures"), settings=settings)
    found = sorted((tmp_path / "out").rglob("facet-*.png"))
    assert [f.name for f in found] == ["facet-class-0-0.png", "facet-class-0-1.png"]
    for file in found:
        red, _, blue = np.asarray(Image.open(file), dtype=float).mean((0, 1))
        assert red > blue + 20
    with pytest.raises(ValueError, match="facets=-1"):
        task.load(str(mine / "pictures"), **options(mine), facets=-1)
