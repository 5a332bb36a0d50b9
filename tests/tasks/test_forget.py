"""Forgetting a class: figures that can fall, a user's own classifier, files that load again."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import forget as task

MAKE = "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))\n"


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A small classifier of three clouds, trained, with its samples."""
    folder = tmp_path_factory.mktemp("mine")
    torch.manual_seed(0)
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    y = torch.arange(300) % 3
    x = centres[y] + 0.4 * torch.randn(300, 4)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "net.safetensors")
    (folder / "net.py").write_text(MAKE)
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy())
    return folder


def options(folder):
    return {"factory": f"{folder / 'net.py'}:make", "samples": str(folder / "data.npz")}


def test_every_method_runs_on_a_users_classifier_and_its_file_gives_the_same_model(mine, tmp_path):
    problem = task.load(str(mine / "net.safetensors"), forget=1, **options(mine))
    assert problem.facts["of them to forget"] == 75
    found = {}
    for name, method in {**task.METHODS, **task.BASELINES}.items():
        figures, model = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
        found[name] = figures
        model.save(tmp_path / "model.safetensors")
        again = task.ChangedClassifier.load(tmp_path / "model.safetensors")
        assert torch.equal(again.model(problem.train.x), model.model(problem.train.x)), name
    assert found["nothing"]["forgotten"] > 0.9
    assert found["retrain"]["forgotten"] == 0
    assert all(f["balance"] == pytest.approx(f["retained"] - f["forgotten"]) for f in found.values())


def test_dampening_forgets_a_digit_and_keeps_the_others(tmp_path):
    figures, _ = task.evaluate(task.METHODS["ssd"], task.load("digits"), Run(tmp_path, seed=0))
    assert figures["forgotten"] < 0.2
    assert figures["retained"] > 0.9


def test_apply_saves_a_classifier_that_loads(mine, tmp_path):
    settings = ["forget=2", *(f"{k}={v}" for k, v in options(mine).items())]
    data = str(mine / "net.safetensors")
    apply.apply("forget", "ssd", tmp_path / "out", data=data, settings=settings)
    again = apply.reuse("forget", tmp_path / "out", data=data, out=tmp_path / "again")
    assert again.read_text() == (tmp_path / "out" / "predictions.csv").read_text()


def test_bad_input_is_named(mine, tmp_path):
    net, more = str(mine / "net.safetensors"), options(mine)
    np.savez(tmp_path / "one.npz", x=np.ones((20, 4)), y=np.zeros(20, dtype=int))
    np.savez(tmp_path / "wide.npz", x=np.ones((20, 9)), y=np.arange(20) % 3)
    np.savez(tmp_path / "nan.npz", x=np.full((20, 4), np.nan), y=np.arange(20) % 3)
    np.savez(tmp_path / "float.npz", x=np.ones((20, 4)), y=np.linspace(0, 1, 20))
    (tmp_path / "not.npz").write_text("x")
    cases = [
        ({"forget": 7, **more}, "not among the labels"),
        ({"forget": 0, **more, "samples": str(tmp_path / "one.npz")}, "whole data"),
        ({"forget": 0, **more, "samples": str(tmp_path / "wide.npz")}, "does not take"),
        ({"forget": 0, **more, "samples": str(tmp_path / "nan.npz")}, "NaN"),
        ({"forget": 0, **more, "samples": str(tmp_path / "float.npz")}, "whole number"),
        ({"forget": 0, **more, "samples": str(tmp_path / "not.npz")}, "npz file"),
        ({"forget": 0, "factory": more["factory"]}, "samples="),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            task.load(net, **arguments)
    with pytest.raises(ValueError, match="as y"):
        task.load("digits", "label")
