import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PAPERS = Path(__file__).parents[1] / "atlas" / "papers"
GRAMIAN = (sys.executable, "-c", "from gramian.cli import main; main()")


def gramian(*arguments, home=None, trial=False, **more):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "COLUMNS": "160"}
    if trial:
        environment["GRAMIAN_PAPERS"] = str(PAPERS)
    command = [*GRAMIAN, *(("--home", str(home)) if home else ()), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, **more)


def best_seconds(command, tries=4):
    """Processor seconds of the quickest try: other work on the machine does not count."""

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(tries):
        start = spent()
        subprocess.run(command, check=True, capture_output=True)
        times.append(spent() - start)
    return min(times)


def test_the_package_imports_at_once_and_brings_nothing_heavy():
    code = "import gramian, sys; print([m for m in ('torch', 'numpy', 'pandas', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    bare = best_seconds([sys.executable, "-c", "pass"])
    assert best_seconds([sys.executable, "-c", "import gramian"]) - bare < 0.15


@pytest.mark.parametrize("verb", [("list",), ("search", "long sequences"), ("show", "s4d")])
def test_the_catalogue_answers_within_half_a_second(verb, tmp_path):
    code = f"import sys; sys.argv = ['gramian', '--home', {str(tmp_path)!r}, *{verb!r}]\n"
    code += "import gramian.cli\ntry:\n    gramian.cli.main()\n"
    code += "finally:\n    print([m for m in ('torch', 'numpy') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]"), "neither torch nor numpy is imported"
    assert best_seconds([sys.executable, "-c", code]) < 0.5


def test_list_filters_and_speaks_json():
    rows = json.loads(gramian("list", "--json", "--topic", "state").stdout)
    assert {r["slug"] for r in rows} >= {"s4d", "ptd"}
    assert {r["topic"] for r in rows} == {"state"}
    assert len(json.loads(gramian("list", "--json", "--planned").stdout)) == 236
    wrong = gramian("list", "--topic", "stat")
    assert wrong.returncode == 2
    assert "did you mean state" in wrong.stderr


def test_search_finds_a_paper_by_what_it_does():
    found = json.loads(gramian("search", "forget data without retraining", "--json").stdout)
    assert found[0]["slug"] == "ssd_unlearning"
    assert "nothing matches" in gramian("search", "qqqq").stderr


def test_show_tells_how_to_use_a_paper():
    shown = gramian("show", "matrix-nuclear-norm").stdout
    for word in ("Claim", "API", "Use it", "nuclear_norm(", "Options of the experiment"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "s4dd"), "did you mean s4d"),
        (("run", "holds", "--set", "sizes=a"), "not a whole number"),
        (("run", "holds", "--set", "size=1"), "did you mean sizes"),
        (("run", "holds", "--device", "cuda:9"), "this machine has cpu"),
        (("verify", "--topic", "nothing"), "no topic is named"),
        (("compare", "classify-seris"), "did you mean classify-series"),
        (("apply", "classify-series", "s5-pdt", "--out", "x"), "did you mean s5-ptd"),
        (("apply", "classify-series", "--out", "x"), "name a method"),
        (("data", "fetch", "japanese_vowel"), "japanese_vowels"),
    ],
)
def test_what_is_mistyped_is_explained_without_a_traceback(arguments, message, tmp_path):
    done = gramian(*arguments, home=tmp_path, trial=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_writes_a_report_and_its_exit_code_tells(tmp_path):
    done = gramian("run", "holds", "fails", home=tmp_path, trial=True)
    assert done.returncode == 1
    report = Path(done.stdout.split("report: ")[1].strip())
    assert "1 of 2 ok" in report.read_text()
    assert gramian("run", "holds", "--out", str(tmp_path / "here"), home=tmp_path, trial=True).returncode == 0
    assert (tmp_path / "here" / "report.html").exists()
    listed = json.loads(gramian("list", "--json", "--topic", "trial", home=tmp_path, trial=True).stdout)
    assert {r["slug"]: r["status"] for r in listed}["fails"] == "failed"
    assert "two is below one" in gramian("show", "fails", home=tmp_path, trial=True).stdout


def test_an_unwritable_home_and_a_damaged_store_are_explained(tmp_path):
    (tmp_path / "file").touch()
    done = gramian("run", "holds", home=tmp_path / "file" / "home", trial=True)
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)
    (tmp_path / "evidence.sqlite").write_text("not a database " * 100)
    done = gramian("run", "holds", home=tmp_path, trial=True)
    assert (done.returncode, "damaged or not a gramian store" in done.stderr) == (2, True)


def test_doctor_names_the_command_that_mends(tmp_path):
    done = gramian("doctor", home=tmp_path)
    assert done.returncode == 0
    for word in ("torch", "processor", "extra series", "data"):
        assert word in done.stdout


def test_every_verb_has_help():
    verbs = ("list", "search", "show", "run", "verify", "compare", "apply", "data", "doctor", "report", "site", "bench")
    overview = gramian("--help").stdout
    for verb in verbs:
        assert verb in overview
        shown = gramian(verb, "--help")
        assert shown.returncode == 0
        assert len(shown.stdout) > 200
