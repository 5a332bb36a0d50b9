"""Scaling up: sweeps that save and load, a rule that transfers where none does not, bad settings."""

import math

import numpy as np
import pytest

from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import scale_up as task


def test_depth_parametrization_transfers_over_depth_and_the_standard_rule_does_not(tmp_path):
    problem = task.load("digits", axis="depth", sizes="2,32", other=24, steps=25)
    found = {}
    for name in ("depth-mup", "standard"):
        figures, sweep = task.evaluate(
            {**task.METHODS, **task.BASELINES}[name], problem, Run(tmp_path, seed=0, show_progress=False)
        )
        found[name] = figures
        assert len(task.predict(sweep, problem)) == 16
        assert figures["regret"] >= 1
    assert found["depth-mup"]["regret"] < 1.5
    assert found["depth-mup"]["transferred"] < found["standard"]["transferred"]


@pytest.mark.parametrize("name", [*task.METHODS, *task.BASELINES])
@pytest.mark.parametrize("axis", ["width", "depth"])
def test_every_rule_learns_along_both_axes(name, axis, tmp_path):
    problem = task.load("digits", axis=axis, sizes="4,8", other=4, steps=15)
    figures, sweep = task.evaluate(
        {**task.METHODS, **task.BASELINES}[name], problem, Run(tmp_path, seed=0, show_progress=False)
    )
    assert figures["best"] < math.log(10)
    assert sorted(sweep.losses) == [4, 8]


def test_a_sweep_is_saved_whole_and_read_again(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    settings = ["sizes=4,8", "steps=5", "other=1"]
    data = str(tmp_path / "mine.npz")
    apply.apply("scale-up", "mup", tmp_path / "out", data=data, settings=settings)
    assert (tmp_path / "out" / "model" / "sweep.png").stat().st_size > 1000
    losses = {4: {0.5: 1.0, 0.25: math.inf}, 8: {0.5: 2.0, 0.25: 1.0}}
    task.Sweep("mup", "width", losses).save(tmp_path / "s.safetensors")
    again = task.Sweep.load(tmp_path / "s.safetensors")
    assert again.losses == losses
    assert again.figures() == {"transferred": 2.0, "best": 1.0, "regret": 2.0, "shift": 1.0}


def test_bad_settings(tmp_path):
    for match, settings in (
        ("axis='heads'", {"axis": "heads"}),
        ("whole numbers", {"sizes": "small,large"}),
        ("at least two", {"sizes": "32"}),
        ("at least two", {"sizes": "0,8"}),
        ("steps=0", {"steps": 0}),
    ):
        with pytest.raises(ValueError, match=match):
            task.load("digits", **settings)
    np.savez(tmp_path / "cube.npz", x=np.zeros((4, 2, 2), np.float32), y=np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="rows of features"):
        task.load(str(tmp_path / "cube.npz"))
    np.savez(tmp_path / "below.npz", x=np.eye(4, dtype=np.float32), y=np.array([-1, 0, 1, 1]))
    with pytest.raises(ValueError, match="count from 0"):
        task.load(str(tmp_path / "below.npz"))
