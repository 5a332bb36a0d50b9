"""Modelling a language: losses under the uniform one, a user's text, files that load again."""

import pytest
import torch

from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import model_language as task

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


@pytest.fixture
def counting(tmp_path):
    path = tmp_path / "counting.txt"
    path.write_text(" ".join(WORDS * 30), encoding="utf-8")
    return path


SMALL = {"parameters": 20_000, "depth": 1, "steps": 30, "length": 24}


@pytest.mark.parametrize("name", [*task.METHODS, *task.BASELINES])
def test_every_method_learns_to_count_and_its_file_says_the_same(name, counting, tmp_path):
    problem = task.load(str(counting), **SMALL)
    method = {**task.METHODS, **task.BASELINES}[name]
    figures, model = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
    assert 0 <= figures["bits_per_byte"] < 5.5  # bytes drawn at random take 8
    model.save(tmp_path / "model.safetensors")
    again = type(model).load(tmp_path / "model.safetensors")
    if name == "lzma":
        assert again.bits_per_byte == figures["bits_per_byte"]
        return
    assert 0.5 < sum(p.numel() for p in model.model.parameters()) / 20_000 < 2
    held_out = problem.train.held_out
    assert again.bits(held_out, 24) == pytest.approx(model.bits(held_out, 24), rel=1e-6)
    assert len((tmp_path / "sample.txt").read_text()) > 50


def test_bits_are_those_of_the_definition(counting):
    problem = task.load(str(counting), **SMALL)
    model = task.LanguageModel("transformer", {"vocabulary": 256, "width": 16, "depth": 1}, None)
    ids = problem.train.held_out[:60]
    by_hand = 0.0
    for piece in ids.split(24):
        for t in range(1, len(piece)):
            with torch.no_grad():
                by_hand -= float(model.model(piece[None, :t])[0, -1].log_softmax(0)[piece[t]]) / 0.6931471805599453
    assert model.bits(ids, 24) == pytest.approx(by_hand, rel=1e-4)


def test_a_saved_model_reads_another_text(counting, tmp_path):
    settings = [f"{k}={v}" for k, v in SMALL.items()]
    apply.apply("model-language", "gla", tmp_path / "out", data=str(counting), settings=settings)
    other = tmp_path / "other.txt"
    other.write_text(" ".join(reversed(WORDS * 30)), encoding="utf-8")
    found = apply.reuse("model-language", tmp_path / "out", data=str(other), out=tmp_path / "again")
    assert "bits_per_token" in found.read_text()


def test_bad_input(counting, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for match, data, settings in (
        ("neither 'bytes' nor", counting, {"tokens": "letters"}),
        ("windows of 128 need", short, {}),
        ("length=9999", counting, {"length": 9999}),
        ("no columns", counting, {"target": "y"}),
        ("no text file", tmp_path / "none.txt", {}),
    ):
        with pytest.raises(ValueError, match=match):
            task.load(str(data), **settings)
