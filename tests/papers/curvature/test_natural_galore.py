import torch

from gramian.optim import galore
from gramian.papers.curvature import natural_galore
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_the_plain_gradient_in_place_of_the_natural_one_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(galore, "natural_direction", lambda window, inside: inside)
    for part, claim in (
        (natural_galore.natural_step_is_exact, "dense inverse"),
        (natural_galore.steps_follow_dense_inverses, "dense inverses"),
        (natural_galore.heavy_damping_is_galore, "another"),
    ):
        status, run = status_of(part, tmp_path / part.__name__)
        assert status == "failed"
        assert any(claim in c for c in false_claims(run))


def test_history_left_in_the_old_coordinates_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(galore, "_turned", lambda window, turn, shape: window)
    status, run = status_of(natural_galore.steps_follow_dense_inverses, tmp_path)
    assert status == "failed"
    assert any("renewed" in c for c in false_claims(run))


def test_a_random_basis_fails(tmp_path, monkeypatch):
    def random(self, gradient):
        generator = torch.Generator().manual_seed(self.steps)
        self.steps += 1
        self.bases = {
            axis: torch.linalg.qr(torch.randn(gradient.shape[axis], rank, generator=generator, dtype=gradient.dtype)).Q
            for axis, rank in self.ranks(gradient.shape).items()
        }

    monkeypatch.setattr(galore.GaLoreProjector, "update", random)
    status, run = status_of(natural_galore.bases_are_orthonormal, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2  # what it keeps; it is orthonormal


def test_a_basis_never_made_orthonormal_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(galore, "_moved", lambda basis, matrix, length: basis + length * matrix @ (matrix.mT @ basis))
    status, run = status_of(natural_galore.bases_are_orthonormal, tmp_path)
    assert status == "failed"
    assert any("PᵀP" in c for c in false_claims(run))


def test_an_optimizer_without_moments_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(galore, "_adam", lambda state, gradient, group: state.setdefault("first", gradient))
    for part in (natural_galore.full_rank_is_adamw, natural_galore.state_is_counted):
        status, run = status_of(part, tmp_path / part.__name__)
        assert status == "failed", part


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(natural_galore.experiment, tmp_path)
    assert status == "ok", false_claims(run)
