"""Row 209's checks fail when the method is not there."""

import copy

import torch
from torch import nn

from gramian.models.generative import diffusion, dit
from gramian.nn import factored
from gramian.papers.adaptation import kind_learngene as paper
from gramian.surgery import learngene
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def failed(part, folder, words):
    status, run = status_of(part, folder)
    assert status == "failed"
    assert any(words in claim for claim in false_claims(run)), false_claims(run)


def everything_on(labels, common, per_class, classes):
    return torch.ones(len(labels), common + per_class * classes)


def test_a_gate_that_is_always_open_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(factored, "class_gate", everything_on)
    monkeypatch.setattr(dit, "class_gate", everything_on)
    failed(paper.gates_choose_components, tmp_path / "a", "against a loop")
    failed(paper.learngenes_move_alone, tmp_path / "b", "learngenes alone")


def test_a_network_whose_gate_is_open_mixes_the_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(dit, "class_gate", everything_on)
    failed(paper.classes_do_not_touch_each_other, tmp_path, "other classes' tailors")


def test_a_layer_without_its_scales_fails(tmp_path, monkeypatch):
    def unscaled(self, x, gate):
        mask = gate.view(len(gate), *(1,) * (x.ndim - 2), -1)
        return nn.functional.linear(nn.functional.linear(x, self.down) * mask, self.up, self.bias)

    monkeypatch.setattr(factored.GatedSVDLinear, "forward", unscaled)
    failed(paper.gates_choose_components, tmp_path / "a", "U diag(s)")
    failed(paper.learngenes_move_alone, tmp_path / "b", "numbers that the training changed")


def test_an_expansion_that_leaves_the_new_network_as_it_is_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(learngene, "expand", lambda genes, build, *, classless=(): build())
    failed(paper.learngenes_move_alone, tmp_path, "learngenes alone")


def test_learngenes_without_their_scales_fail(tmp_path, monkeypatch):
    real = learngene.extract

    def flat(model):
        return {n: torch.ones_like(t) if n.endswith(".scale") else t for n, t in real(model).items()}

    monkeypatch.setattr(learngene, "extract", flat)
    failed(paper.learngenes_move_alone, tmp_path, "learngenes alone")


def test_tailors_that_are_not_fresh_fail(tmp_path, monkeypatch):
    real = learngene.expand

    def zeroed(genes, build, *, classless=()):
        model = real(genes, build, classless=classless)
        with torch.no_grad():
            for layer in learngene.gated_layers(model).values():
                layer.up[:, layer.common :] = 0
        return model

    monkeypatch.setattr(learngene, "expand", zeroed)
    failed(paper.learngenes_move_alone, tmp_path, "fresh ones")


def test_training_everything_fails(tmp_path, monkeypatch):
    def all_of_it(model, names=(), *, components=True):
        return sum(p.numel() for p in model.parameters())

    monkeypatch.setattr(learngene, "train_only", all_of_it)
    failed(paper.learngenes_move_alone, tmp_path / "a", "bit for bit")
    failed(paper.counts_of_the_large_network, tmp_path / "b", "trained numbers less")


def test_training_nothing_but_the_labels_fails(tmp_path, monkeypatch):
    real = learngene.train_only

    def labels_alone(model, names=(), *, components=True):
        said = real(copy.deepcopy(model), names)
        real(model, names, components=False)
        return said

    monkeypatch.setattr(learngene, "train_only", labels_alone)
    failed(paper.learngenes_move_alone, tmp_path, "numbers that the training changed")


def test_a_path_that_adds_too_little_noise_or_samples_wrongly_fails(tmp_path, monkeypatch):
    real = diffusion.DDPMPath.sample
    with monkeypatch.context() as patch:
        patch.setattr(diffusion.DDPMPath, "sample", lambda self, network, shape, *a, **k: torch.randn(tuple(shape)))
        failed(paper.the_path_leads_back, tmp_path / "a", "mean of the samples")
    with monkeypatch.context() as patch:
        patch.setattr(
            diffusion.DDPMPath, "sample", lambda self, *a, **k: real(self, *a, **k | {"clip": 2.1, "steps": 2})
        )
        failed(paper.the_path_leads_back, tmp_path / "b", "deviation of the samples")
    monkeypatch.setattr(diffusion.DDPMPath, "add_noise", lambda self, x, t, noise: x + self.scales(t, x)[1] * noise)
    failed(paper.the_path_leads_back, tmp_path / "c", "loss of the exact network")


def test_a_shallower_network_fails_the_counts(tmp_path, monkeypatch):
    real = dit.DiT.__init__
    monkeypatch.setattr(dit.DiT, "__init__", lambda self, **k: real(self, **{"depth": 22} | k))
    failed(paper.counts_of_the_large_network, tmp_path, "dense DiT-L/2")


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
