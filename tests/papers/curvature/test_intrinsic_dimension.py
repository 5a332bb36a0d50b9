import torch

from gramian.optim import subspace
from gramian.papers.curvature import intrinsic_dimension as paper
from gramian.surgery import seed_checkpoint
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_quick_ends_well(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} >= {"table", "figure", "text"}


def test_a_subspace_with_one_direction_fails(tmp_path, monkeypatch):
    real = subspace.Projection.apply

    def flat(self, v):
        return real(self, v.mean(-1, keepdim=True).expand_as(v))

    monkeypatch.setattr(subspace.Projection, "apply", flat)
    for part in (paper.toy_has_dimension_ten, paper.projections_are_unit_and_near_orthogonal):
        assert status_of(part, tmp_path)[0] == "failed"


def test_a_search_that_takes_the_first_dimension_fails(tmp_path, monkeypatch):
    def first(train, grid, target=0.9, baseline=None, *, stop=False):
        curve = {d: train(d) for d in sorted(grid)}
        return subspace.IntrinsicDimension(min(curve), target, curve)

    monkeypatch.setattr(subspace, "intrinsic_dimension", first)
    status, run = status_of(paper.toy_has_dimension_ten, tmp_path)
    assert status == "failed"
    assert any("ten constraints" in c for c in false_claims(run))


def test_coordinates_that_are_not_projected_fail(tmp_path, monkeypatch):
    def padded(self, v):
        return torch.nn.functional.pad(v, (0, self.size - self.dimension))

    monkeypatch.setattr(subspace.Projection, "apply", padded)
    status, run = status_of(paper.projections_are_unit_and_near_orthogonal, tmp_path)
    assert status == "failed"
    assert any("Fastfood in float32" in c for c in false_claims(run))
    assert any("adjoint" in c for c in false_claims(run))


def test_a_checkpoint_that_forgets_the_coordinates_fails(tmp_path, monkeypatch):
    real = seed_checkpoint.from_seed_checkpoint

    def forgetful(path, build):
        inside = real(path, build)
        with torch.no_grad():
            inside.coordinates.zero_()
        return inside

    monkeypatch.setattr(seed_checkpoint, "from_seed_checkpoint", forgetful)
    status, run = status_of(paper.checkpoint_is_two_seeds, tmp_path, steps=5)
    assert status == "failed"
    assert any("same bits" in c for c in false_claims(run))
