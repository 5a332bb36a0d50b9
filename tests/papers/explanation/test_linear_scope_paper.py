import torch

from gramian.analysis.explain import linear_scope as scope
from gramian.papers.explanation import linear_scope
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


class Tangent(scope.LinearInterpreter):
    """The network's own tangent: not frozen units, but derivatives."""

    def matvec(self, u):
        return torch.autograd.functional.jvp(self.model, self.x, u)[1]

    def rmatvec(self, w):
        return torch.autograd.functional.vjp(self.model, self.x, w)[1]

    def rows(self, outputs, *, at_once=16):
        eye = torch.eye(self.y.numel(), dtype=self.y.dtype)
        return torch.stack([self.rmatvec(eye[k].view_as(self.y)) for k in outputs])


def test_the_tangent_is_no_interpreter_of_smooth_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(scope, "LinearInterpreter", Tangent)
    status, run = status_of(linear_scope.smooth_networks, tmp_path)
    assert status == "failed"
    for claim in ("F x + r", "from the Jacobian"):
        assert any(claim in c for c in false_claims(run)), claim


def test_a_network_that_is_not_frozen_fails(tmp_path, monkeypatch):
    def plain(self, u):
        with torch.no_grad():
            return self.model(u)

    monkeypatch.setattr(scope.LinearInterpreter, "replay", plain)
    for part, claim in ((linear_scope.smooth_networks, "2 F u"), (linear_scope.piecewise_linear_networks, "columns")):
        status, run = status_of(part, tmp_path / part.__name__)
        assert status == "failed"
        assert any(claim in c for c in false_claims(run)), claim


def test_rows_and_singular_vectors_of_something_else_fail(tmp_path, monkeypatch):
    def first_places(self, w):
        out = torch.zeros_like(self.x)
        out.view(-1)[: w.numel()] = w.flatten()
        return out

    monkeypatch.setattr(scope.LinearInterpreter, "rmatvec", first_places)
    monkeypatch.setattr(
        scope.LinearInterpreter, "rows", lambda self, o, at_once=16: self.x.expand(len(list(o)), *self.x.shape)
    )
    status, run = status_of(linear_scope.piecewise_linear_networks, tmp_path)
    assert status == "failed"
    for claim in ("rows", "Fᵀ w", "singular values", "singular pairs"):
        assert any(claim in c for c in false_claims(run)), claim


def test_columns_of_something_else_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(scope.LinearInterpreter, "columns", lambda self, i: self.y.new_ones(len(i), *self.y.shape))
    status, run = status_of(linear_scope.upsampler, tmp_path)
    assert status == "failed"
    assert any("bicubic" in c for c in false_claims(run))


def test_an_interpreter_of_another_picture_fails_for_the_classifier(tmp_path, monkeypatch):
    freeze = scope.LinearScope.__call__
    monkeypatch.setattr(scope.LinearScope, "__call__", lambda self, x: freeze(self, x.flip(-1) * 0.5))
    status, run = status_of(linear_scope.classifier, tmp_path, names=("chelsea",))
    assert status == "failed"
    assert any("against the logits" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(linear_scope.experiment, tmp_path)
    assert status == "ok", false_claims(run)
