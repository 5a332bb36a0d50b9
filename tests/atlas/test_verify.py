import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from gramian.atlas.errors import UserError
from gramian.atlas.measure.store import Store
from gramian.atlas.measure.verify import verify
from gramian.lab import QUICK

SHORT = replace(QUICK, seconds=20, patience=1, memory_mb=1200)


def test_every_way_to_end_is_a_row_of_the_result(trial_shelf, tmp_path):
    slugs = ("holds", "fails", "raises", "hangs", "swells", "dies", "lacks")
    seen = []
    results = verify(trial_shelf.choose(slugs), tmp_path, budget=SHORT, jobs=2, warm=False, on_result=seen.append)
    assert [r.slug for r in results] == list(slugs)
    found = {r.slug: r for r in results}
    assert {s: r.status for s, r in found.items()} == {
        "holds": "ok", "fails": "failed", "raises": "error", "hangs": "timeout",
        "swells": "killed", "dies": "killed", "lacks": "skipped",
    }  # fmt: skip
    assert "something broke" in found["raises"].reason
    assert "over the cap of 1200 MiB" in found["swells"].reason
    assert "SIGKILL" in found["dies"].reason
    assert "gramian data fetch nowhere" in found["lacks"].reason
    assert [c["claim"] for c in found["hangs"].checks] == ["measured before"], (
        "what was measured before the end is kept"
    )
    assert found["swells"].peak_mb > 1200
    assert {r.slug for r in seen} == set(slugs)
    assert {s: r.status for s, r in Store(tmp_path).latest().items()} == {s: r.status for s, r in found.items()}
    assert Store(tmp_path).unfinished_session() is None


def start_verify(home, *more):
    command = [sys.executable, "-c", "from gramian.cli import main; main()", "--home", str(home), "verify", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def recorded(home, slug):
    with contextlib.suppress(UserError):
        return (home / "evidence.sqlite").exists() and Store(home).history(slug)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def workers(home):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "gramian.atlas.measure.worker" in line and str(home) in line:
            found.append(process)
    return found


def test_kill_9_keeps_what_was_recorded_and_resume_goes_on(trial_shelf, tmp_path):
    run = start_verify(tmp_path, "holds", "naps", "hangs", "-j", "1")
    wait_for(lambda: recorded(tmp_path, "naps") and workers(tmp_path))
    run.kill()
    run.wait()
    wait_for(lambda: not workers(tmp_path), 20)  # the orphaned worker ends itself
    store = Store(tmp_path)
    assert {s: r.status for s, r in store.latest().items()} == {"holds": "ok", "naps": "ok"}
    results = verify(trial_shelf.choose(("holds", "naps", "hangs")), tmp_path, budget=SHORT, warm=False, resume=True)
    assert [r.status for r in results] == ["ok", "ok", "timeout"]
    assert len(store.history("holds")) == len(store.history("naps")) == 1, "what was done was not done again"


def test_resume_asks_for_the_profile_that_it_began_with(trial_shelf, tmp_path):
    Store(tmp_path).begin_session("full", ["holds"])
    with pytest.raises(UserError, match="--full --resume"):
        verify(trial_shelf.choose(("holds",)), tmp_path, budget=SHORT, warm=False, resume=True)


def test_interrupt_ends_the_workers_and_keeps_the_evidence(trial_shelf, tmp_path):
    run = start_verify(tmp_path, "holds", "hangs", "-j", "1")
    wait_for(lambda: recorded(tmp_path, "holds") and workers(tmp_path))
    os.kill(run.pid, signal.SIGINT)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "the evidence so far is kept" in output
    wait_for(lambda: not workers(tmp_path), 20)
    assert Store(tmp_path).latest()["holds"].status == "ok"


def test_two_runs_at_once_share_a_store(trial_shelf, tmp_path):
    path = tmp_path / "result.json"
    first = start_verify(tmp_path, "holds", "naps", "--json", str(path))
    second = start_verify(tmp_path, "holds", "fails")
    assert first.wait(120) == 0
    assert second.wait(120) == 1
    store = Store(tmp_path)
    assert {s: len(store.history(s)) for s in ("holds", "naps", "fails")} == {"holds": 2, "naps": 1, "fails": 1}
    rows = json.loads(path.read_text())
    assert {"slug", "row", "topic", "status", "seconds", "peak_mb", "checks"} <= set(rows[0])
    assert set(rows[0]["checks"][0]) == {"claim", "measured", "bound", "paper", "ok"}


def test_a_dask_cluster_runs_the_rows(trial_shelf, tmp_path):
    distributed = pytest.importorskip("distributed", reason="pip install 'gramian[cluster]'")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        results = verify(
            trial_shelf.choose(("holds", "fails", "dies")), tmp_path, budget=SHORT, backend="dask", warm=False
        )
    assert [r.status for r in results] == ["ok", "failed", "killed"]


def test_an_unknown_backend_is_explained(trial_shelf, tmp_path):
    with pytest.raises(UserError, match="cannot start"):
        verify(trial_shelf.choose(("holds",)), tmp_path, budget=SHORT, backend="cloud", warm=False)
