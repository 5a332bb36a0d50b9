"""Adaptation at test time: what it changes and what not, a user's classifier, files that load again."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gramian.atlas import apply
from gramian.lab import Run
from gramian.tasks import adapt_at_test_time as task
from gramian.tasks.support import classifier

MAKE = (
    "from torch import nn\n"
    "def make():\n    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))\n"
)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A classifier of three clouds, samples like its training data, and a stream that is shifted and stretched."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "net.py").write_text(MAKE)
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    x = 2 * torch.eye(4)[y] + 0.4 * torch.randn(300, 4)
    space = {}
    exec(MAKE, space)
    model = space["make"]()
    classifier.train(model, x, y, seed=0, steps=60, lr=1e-2)
    save_file(model.state_dict(), folder / "net.safetensors")
    np.savez(folder / "known.npz", x=x.numpy(), y=y.numpy())
    np.savez(folder / "stream.npz", x=(0.4 * x + torch.tensor([2.0, -1, 0, 0])).numpy(), y=y.numpy())
    return folder


def options(folder, **more):
    named = {"samples": str(folder / "stream.npz"), "known": str(folder / "known.npz"), "batch": 30}
    return {"factory": f"{folder / 'net.py'}:make", **named} | more


def test_every_method_meets_a_users_stream_and_its_file_predicts_the_same(mine, tmp_path):
    problem = task.load(str(mine / "net.safetensors"), **options(mine, passes=2))
    before = {n: v.clone() for n, v in problem.train.model.state_dict().items()}
    found = {}
    for name, method in {**task.METHODS, **task.BASELINES}.items():
        figures, model = task.evaluate(method, problem, Run(tmp_path, seed=0, show_progress=False))
        model.save(tmp_path / "model.safetensors")
        again = task.AdaptedClassifier.load(tmp_path / "model.safetensors")
        assert task.predict(again, problem).equals(task.predict(model, problem)), name
        found[name] = figures
    assert found["bn"]["accuracy"] > found["nothing"]["accuracy"] + 0.2
    assert found["tent"]["gradients"] == 600
    assert found["eata"]["gradients"] < 600
    assert found["nothing"]["known"] > 0.95
    assert all(torch.equal(v, before[n]) for n, v in problem.train.model.state_dict().items()), "a copy is adapted"


def test_batch_statistics_help_on_noisy_digits(tmp_path):
    problem = task.load("digits")
    figures, _ = task.evaluate(task.METHODS["eata"], problem, Run(tmp_path, seed=0, show_progress=False))
    assert figures["accuracy"] > problem.facts["accuracy before"] + 0.05
    assert figures["known"] > 0.9


def test_apply_and_load_again(mine, tmp_path):
    settings = [f"{k}={v}" for k, v in options(mine).items()]
    apply.apply("adapt-at-test-time", "tent", tmp_path / "out", data=str(mine / "net.safetensors"), settings=settings)
    again = apply.reuse(
        "adapt-at-test-time", tmp_path / "out", data=str(mine / "net.safetensors"), out=tmp_path / "again"
    )
    assert again.read_text() == (tmp_path / "out" / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch": 1}, "at least 2"),
        ({"passes": 0}, "one pass"),
        ({"lr": 0.0}, "positive"),
        ({"known": ""}, "known=TRAINING"),
        ({"batch": 299}, "a last one of 1"),
    ],
)
def test_bad_options(mine, more, message):
    with pytest.raises(ValueError, match=message):
        task.load(str(mine / "net.safetensors"), **options(mine, **more))


def test_a_network_that_cannot_be_adapted(mine, tmp_path):
    (tmp_path / "plain.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 3)\n")
    save_file(nn.Linear(4, 3).state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(ValueError, match="no norm layer"):
        task.load(str(tmp_path / "plain.safetensors"), **options(mine, factory=f"{tmp_path / 'plain.py'}:make"))
    np.savez(tmp_path / "wide.npz", x=np.zeros((6, 9), np.float32), y=np.zeros(6, np.int64))
    with pytest.raises(ValueError, match="does not take the samples"):
        task.load(str(mine / "net.safetensors"), **options(mine, samples=str(tmp_path / "wide.npz")))
    np.savez(tmp_path / "far.npz", x=np.zeros((6, 4), np.float32), y=np.full(6, 7))
    with pytest.raises(ValueError, match="3 classes"):
        task.load(str(mine / "net.safetensors"), **options(mine, samples=str(tmp_path / "far.npz")))
