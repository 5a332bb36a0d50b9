import torch

from gramian.analysis.geometry import interaction_tensor as tensors
from gramian.papers.activation import interaction_tensor as paper
from gramian.science import feature_framework
from support import status_of


def fails(run, status, *parts):
    assert status == "failed"
    false = [c.claim for c in run.checks if not c.ok]
    for part in parts:
        assert any(part in claim for claim in false), (part, false)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [(c.claim, c.measured) for c in run.checks if not c.ok]


def test_a_miss_with_replacement_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_framework, "miss", lambda t, c, n: (1 - c / t) ** n)
    status, run = status_of(paper.closed_forms, tmp_path, draws=20_000)
    fails(run, status, "0.9061", "0.8517", "against draws")


def test_networks_that_answer_alike_fail(tmp_path, monkeypatch):
    sample = feature_framework.Framework.sample

    def alike(self, draws, generator=None):
        found = sample(self, draws, generator)
        return feature_framework.Sample(found.first, found.first)

    monkeypatch.setattr(feature_framework.Framework, "sample", alike)
    status, run = status_of(paper.closed_forms, tmp_path, draws=20_000)
    fails(run, status, "against draws")


def test_components_that_are_single_units_fail(tmp_path, monkeypatch):
    def units(x, k):
        wide = x.double() - x.double().mean(0)
        return wide[:, :k] / wide[:, :k].square().mean(0).sqrt()

    monkeypatch.setattr(tensors, "principal_features", units)
    status, run = status_of(paper.known_tensors, tmp_path)
    fails(run, status, "rotations of one")


def test_a_tensor_that_joins_everything_or_holds_nothing_fails(tmp_path, monkeypatch):
    fit = tensors.InteractionTensor.fit

    def joined(self, activations):
        fit(self, activations)
        self.labels = torch.zeros_like(self.labels)
        self.owners = self.owners.any(1, keepdim=True)
        self.tensor = torch.zeros(*self.tensor.shape[:2], 1, dtype=torch.bool).to_sparse()
        return self

    monkeypatch.setattr(tensors.InteractionTensor, "fit", joined)
    status, run = status_of(paper.known_tensors, tmp_path)
    fails(run, status, "rotations of one", "independent noise", "frequencies", "share found")
