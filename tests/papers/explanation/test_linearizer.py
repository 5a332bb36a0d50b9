import torch

from gramian.models.generative import one_step_flow
from gramian.nn import invertible, linearizer
from gramian.papers.explanation import linearizer as paper
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_an_inverse_that_is_none_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(invertible._Block, "inverse", lambda self, y: self(y)[0])
    status, run = status_of(paper.superposition, tmp_path)
    fails(run, status, "g⁻¹", "superposition in")


def test_networks_that_do_nothing_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(invertible._Block, "forward", lambda self, x: (x, x.new_zeros(len(x))))
    monkeypatch.setattr(invertible._Block, "inverse", lambda self, y: y)
    status, run = status_of(paper.superposition, tmp_path)
    fails(run, status, "ordinary sums")


def test_a_transpose_in_place_of_the_pseudo_inverse_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(linearizer.Linearizer, "pinv", lambda self, tolerance=None: self.transpose())
    status, run = status_of(paper.linear_algebra, tmp_path)
    fails(run, status, "Penrose")


def test_other_linear_algebra_that_is_wrong_fails(tmp_path, monkeypatch):
    cls = linearizer.Linearizer
    right = cls.svd
    monkeypatch.setattr(cls, "transpose", lambda self: cls(self.gy, self.matrix, self.gx))
    monkeypatch.setattr(cls, "compose", lambda self, other: cls(other.gx, other.matrix @ self.matrix, self.gy))
    monkeypatch.setattr(cls, "inverse", lambda self: cls(self.gy, self.matrix.mT, self.gx))
    monkeypatch.setattr(cls, "svd", lambda self: linearizer.SingularVectors(right(self)[0].flip(0), *right(self)[1:]))
    status, run = status_of(paper.linear_algebra, tmp_path)
    fails(run, status, "f*(y)", "composed", "f⁻¹", "f(vᵢ)")


def test_a_diagonal_of_halves_and_an_identity_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(linearizer.Projector, "matrix", property(lambda self: torch.diag(self.logits.sigmoid())))
    status, run = status_of(paper.projection, tmp_path)
    fails(run, status, "f(f(x))")
    monkeypatch.setattr(linearizer.Projector, "matrix", property(lambda self: torch.diag(0 * self.logits + 1)))
    status, run = status_of(paper.projection, tmp_path)
    fails(run, status, "away from x", "gradient")


def test_a_product_in_the_wrong_order_fails(tmp_path, monkeypatch):
    def reversed_product(self, steps=100, method="euler"):
        total = torch.eye(self.g.features, dtype=torch.float64)
        for matrix in self.step_matrices(steps, method):
            total = total @ matrix
        return linearizer.Linearizer(self.g_noise, total.detach(), self.g)

    monkeypatch.setattr(one_step_flow.OneStepFlow, "collapse", reversed_product)
    status, run = status_of(paper.one_step, tmp_path)
    fails(run, status, "one step against 100")


def test_velocities_that_are_zero_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(
        one_step_flow.TimeMatrix, "forward", lambda self, t: t.new_zeros(len(t), self.features, self.features)
    )
    status, run = status_of(paper.one_step, tmp_path)
    fails(run, status, "a single Euler step")
