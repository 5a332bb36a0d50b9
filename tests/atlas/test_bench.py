"""The benchmark harness, on a benchmark whose answer is known."""

import json
import textwrap
import time

import pytest

from gramian.atlas import bench
from gramian.atlas.errors import UserError

FILE = textwrap.dedent("""
    import time
    from gramian.atlas.bench import Benchmark, Contender

    def sleeper(seconds, megabytes):
        def prepare(scale):
            def run():
                time.sleep(seconds * scale)
                return bytearray(b"x" * (megabytes * scale * 2**20))
            return run
        return prepare

    BENCHMARK = Benchmark(
        "waiting",
        (
            Contender("ours", sleeper(0.002, 10)),
            Contender("slow", sleeper(0.02, 60)),
            Contender("once", sleeper(0.004, 20), size="small", rounds=1),
            Contender("absent", sleeper(0, 0), needs=("no_such_module_anywhere",)),
        ),
        sizes={"full": {"scale": 2}, "small": {"scale": 1}, "tiny": {"scale": 0}},
        rounds=3,
        accuracy=lambda: {"error": 1e-7},
    )
""")


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "waiting.py").write_text(FILE)
    (tmp_path / "_shared.py").write_text("")
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    return tmp_path


def test_ratios_memory_and_files(home, capsys):
    assert bench.list_benchmarks() == ["waiting"]
    bench.run_benchmark("waiting", home / "out")
    result = json.loads((home / "out" / "waiting.json").read_text())
    rows = {(r["name"], r["size"]): r for r in result["rows"]}
    slow, once = rows["slow", "full"], rows["once", "small"]
    low, middle, high = slow["ratio"]
    assert low <= middle <= high
    assert 3 < middle < 15
    assert len(slow["seconds"]) == 3
    assert len(once["seconds"]) == 1
    assert rows["ours", "full"]["peak_mb"] == pytest.approx(40, abs=25)  # the bytes and their copy
    assert slow["memory_ratio"] > 3
    assert "no_such_module_anywhere" in rows["absent", "full"]["missing"]
    assert result["processor"]["flags"]
    assert "torch" in result["versions"]
    assert (home / "out" / "waiting.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "not installed: no_such_module_anywhere" in printed
    assert "error: 1e-07" in printed


def test_unknown_and_broken_benchmarks(home):
    with pytest.raises(UserError, match="there are: waiting"):
        bench.run_benchmark("nothing", home)
    (home / "empty.py").write_text("")
    with pytest.raises(UserError, match="defines no BENCHMARK"):
        bench.load(home / "empty.py")


def test_installed_without_a_repository(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "site-packages" / "gramian"
    monkeypatch.setattr(bench.gramian, "__file__", str(package / "__init__.py"))
    with pytest.raises(UserError, match="clone the repository"):
        bench.folder()


def test_the_repositorys_own_benchmarks_load():
    names = bench.list_benchmarks()
    assert "selective_scan" in names
    for name in names:
        loaded = bench.load(bench.folder() / f"{name}.py")
        assert {"full", "tiny"} <= set(loaded.sizes)
        assert {c.size for c in loaded.contenders} <= set(loaded.sizes)
        start = time.perf_counter()
        loaded.contenders[0].prepare(**loaded.sizes["tiny"])()
        assert time.perf_counter() - start < 60
