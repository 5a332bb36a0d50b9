import torch

from gramian.analysis.geometry import conditions
from gramian.papers.activation import task_geometry as paper
from gramian.science import task_geometry
from support import status_of


def fails(run, status, *parts):
    assert status == "failed"
    false = [c.claim for c in run.checks if not c.ok]
    for part in parts:
        assert any(part in claim for claim in false), (part, false)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [(c.claim, c.measured) for c in run.checks if not c.ok]


def test_measures_that_say_the_same_of_everything_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "parallelism_score", lambda means, side: torch.tensor(0.5))
    monkeypatch.setattr(conditions, "ccgp", lambda x, labels, side: 0.5)
    monkeypatch.setattr(conditions, "kernel_alignment", lambda x, y: torch.nn.functional.cosine_similarity(
        (x @ x.T).flatten(), (y @ y.T).flatten(), dim=0))  # fmt: skip
    status, run = status_of(paper.measures_on_known_geometries, tmp_path)
    fails(run, status, "distance of the parallelism score", "right angles", "least", "XOR read", "shift (change)",
          "centred kernels")  # fmt: skip


def test_a_field_without_the_slope_fails(tmp_path, monkeypatch):
    def linear(weights, x, residual, activation, *, readout=1.0, bias=0.0):
        return (readout * residual @ x / len(x)).expand(len(weights), -1)

    monkeypatch.setattr(task_geometry, "expected_gradient_field", linear)
    status, run = status_of(paper.field_is_the_gradient, tmp_path)
    fails(run, status, "largest difference")
    status, run = status_of(paper.fields, tmp_path)
    fails(run, status, "tanh over ReLU")


def test_networks_that_are_not_trained_fail(tmp_path, monkeypatch):
    def untrained(x, targets, activation, *, generator=None, **rest):
        return task_geometry.OneHidden(x.shape[1], 64, targets.shape[1], activation, generator)

    monkeypatch.setattr(task_geometry, "train_one_hidden", untrained)
    status, run = status_of(paper.hidden_geometry, tmp_path)
    fails(run, status, "accuracy", "tanh's alignment with the target", "above ReLU's", "weights between")


def test_one_activation_for_both_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(paper.ACTIVATIONS, "tanh", torch.relu)
    status, run = status_of(paper.hidden_geometry, tmp_path, steps=300)
    fails(run, status, "above ReLU's", "parallelism")
