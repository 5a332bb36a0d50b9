import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from gramian.atlas.errors import UserError
from gramian.atlas.measure.home import new_run_folder, open_home
from gramian.atlas.measure.store import MIGRATIONS, Result, Store

CHECK = {"claim": "c", "measured": 1, "bound": "≥ 0", "paper": None, "ok": True}


def result(slug="s4d", status="ok", profile="quick"):
    return Result(
        slug, 4, "state", status, profile=profile, started="2020-01-01T00:00:00Z", evidence={"checks": [CHECK]}
    )


def test_what_is_recorded_is_read_back(tmp_path):
    store = Store(tmp_path)
    store.record(result(status="failed"))
    store.record(result())
    store.record(result("ptd", profile="full"))
    assert store.latest()["s4d"] == result()
    assert list(store.latest("full")) == ["ptd"]
    assert [r.status for r in store.history("s4d")] == ["failed", "ok"]
    assert store.latest()["s4d"].as_row()["checks"] == [CHECK]


def test_sessions_remember_what_is_left(tmp_path):
    store = Store(tmp_path)
    assert store.unfinished_session() is None
    session = store.begin_session("quick", ["s4d", "ptd"])
    store.record(result(), session)
    assert Store(tmp_path).unfinished_session() == (session, "quick", ["s4d", "ptd"])
    assert list(store.of_session(session)) == ["s4d"]
    store.finish_session(session)
    assert store.unfinished_session() is None


def test_an_older_store_is_migrated_with_its_rows(tmp_path):
    with sqlite3.connect(tmp_path / "evidence.sqlite") as db:
        db.executescript(MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
        db.execute(
            "INSERT INTO runs (slug, profile, status, seed, device, started, seconds, evidence) "
            """VALUES ('s4d', 'quick', 'ok', 0, 'cpu', '2020', 1.0, '{"row": 4, "topic": "state"}')"""
        )
    store = Store(tmp_path)
    assert store.latest()["s4d"].row == 4
    assert store.begin_session("quick", []) == 1


def test_a_newer_or_damaged_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "evidence.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 5}")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"has schema \d+.*update gramian"):
        Store(tmp_path)
    path.write_bytes(b"this is not a database, but long enough to look at" * 100)
    with pytest.raises(UserError, match="damaged or not a gramian store"):
        Store(tmp_path)
    assert path.read_bytes() != before
    assert path.read_bytes().startswith(b"this is not")


def test_a_home_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written.*--home"):
        open_home(tmp_path / "file" / "home")


def test_two_writers_do_not_lose_each_others_runs(tmp_path):
    Store(tmp_path)

    def write(name):
        for _ in range(20):
            Store(tmp_path).record(result(name))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert {s: len(Store(tmp_path).history(s)) for s in "abcd"} == dict.fromkeys("abcd", 20)


def test_a_writer_killed_midway_leaves_the_store_whole(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from gramian.atlas.measure.store import Store, Result\n"
        f"store = Store(Path({str(tmp_path)!r}))\n"
        "for i in range(10**6):\n"
        "    store.record(Result('s4d', 4, 'state', 'ok', seed=i))\n"
        "    i == 5 and print('go', flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"go\n"
    writer.kill()
    writer.wait()
    seeds = [r.seed for r in Store(tmp_path).history("s4d")]
    assert len(seeds) >= 6
    assert seeds == list(range(len(seeds)))


def test_run_folders_never_collide(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(tmp_path, "s4d"), range(50)))
    assert len(set(folders)) == 50
