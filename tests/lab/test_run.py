import json

import pandas
import torch
from matplotlib import pyplot
from safetensors.torch import load_file

from gramian.lab import Run, figures


def test_one_seed_and_stream_give_the_same_numbers(tmp_path):
    first, again, other = Run(tmp_path, seed=3), Run(tmp_path, seed=3), Run(tmp_path, seed=4)
    draw = torch.rand(5, generator=first.generator())
    assert torch.equal(draw, torch.rand(5, generator=again.generator()))
    assert not torch.equal(draw, torch.rand(5, generator=other.generator()))
    assert not torch.equal(draw, torch.rand(5, generator=first.generator(1)))
    assert first.rng().random() == again.rng().random() != other.rng().random()


def test_each_check_is_on_disk_before_the_next(tmp_path):
    run = Run(tmp_path / "run")
    assert run.check("one", 1, below=2)
    assert not run.check("two", float("nan"), below=2)
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())["checks"]
    assert [c["ok"] for c in kept] == [True, False]
    assert kept[1]["measured"] == "nan"


def test_figures_take_the_colour_of_the_page(tmp_path):
    run = Run(tmp_path / "run")
    with figures.style():
        figure, axes = pyplot.subplots()
        axes.plot([1, 2])
        axes.set_title("a < b")
        run.plot("Two lines!", figure, "caption")
    svg = (tmp_path / "run" / "figures" / "two-lines.svg").read_text()
    assert "currentColor" in svg
    assert figures.INK not in svg.lower()
    assert "a &lt; b" in svg
    assert (tmp_path / "run" / "figures" / "two-lines.png").stat().st_size > 1000


def test_tables_and_models_are_kept(tmp_path):
    run = Run(tmp_path / "run")
    run.table("frame", pandas.DataFrame({"x": [1, 2]}, index=pandas.Index(["a", "b"], name="name")))
    run.table("frame", [{"name": "c", "x": float("nan")}])
    assert run.parts == [
        {"type": "table", "name": "frame", "caption": "", "columns": ["name", "x"], "rows": [["c", None]]}
    ]
    layer = torch.nn.Linear(2, 3)
    path = run.save("A layer", layer)
    assert torch.equal(load_file(path)["weight"], layer.weight)


def test_progress_yields_everything_silently(tmp_path, capsys):
    run = Run(tmp_path, show_progress=False)
    assert list(run.progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(Run(tmp_path, show_progress=True).progress(range(3), "counting")) == [0, 1, 2]
