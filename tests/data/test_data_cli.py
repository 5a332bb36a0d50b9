"""``gramian data`` on the command line."""

import json

import pytest
from typer.testing import CliRunner

from gramian import data
from gramian.atlas.errors import UserError
from gramian.cli.data import app
from gramian.lab import Missing


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAMIAN_DATA", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(app, list(words))


def test_list_shows_everything_and_filters(call):
    result = call("list", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [r["name"] for r in rows] == data.names()
    assert not next(r for r in rows if r["name"] == "chelsea")["here"]
    assert next(r for r in rows if r["name"] == "digits")["here"]
    assert [line.split()[1] for line in call("list", "aeon", "ragged").stdout.splitlines()[:-1]] == [
        "japanese_vowels", "pickup_gesture_wiimote_z",
    ]  # fmt: skip


def test_show_tells_source_licence_and_place(call):
    text = call("show", "ETTh1").stdout
    for part in (
        "zhouhaoyi/ETDataset",
        "CC BY-ND 4.0",
        "17420 x 8",
        "its place would be",
        "gramian.data.load('etth1')",
    ):
        assert part in text


def test_mistakes_end_with_a_message_and_not_with_a_traceback(call, tmp_path):
    result = call("show", "chelsee")
    assert isinstance(result.exception, UserError)
    assert "did you mean 'chelsea'" in str(result.exception)
    result = call("fetch")
    assert (result.exit_code, "--all" in result.stderr) == (2, True)
    result = call("add", "etth1", str(tmp_path / "no.csv"))
    assert isinstance(result.exception, UserError)
    assert "no.csv" in str(result.exception)


def test_fetch_reports_and_fails_with_the_reason(call, monkeypatch):
    monkeypatch.setattr("gramian.data.store.fetch", lambda *names, quiet: list(names))
    assert call("fetch", "brick", "grass").stdout == "fetched 2: brick, grass\n"
    assert call("fetch", "--tests").stdout.startswith(f"fetched {len(data.TEST_SETS)}: ")

    def offline(*names, quiet):
        raise Missing("pip could not download it")

    monkeypatch.setattr("gramian.data.store.fetch", offline)
    result = call("fetch", "brick")
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == "pip could not download it"


def test_fetch_for_papers_brings_what_their_experiments_read(call, monkeypatch):
    asked = []
    monkeypatch.setattr("gramian.data.store.fetch", lambda *names, quiet: asked.extend(names) or list(names))
    assert call("fetch", "--for", "matrix-nuclear-norm").exit_code == 0
    assert asked == ["smollm2_135m", "all_minilm_l6_v2"]
