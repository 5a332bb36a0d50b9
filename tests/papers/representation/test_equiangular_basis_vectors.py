"""Row 15: the experiment passes, and fails where a stub stands in a method's place."""

import pytest
import torch

from gramian.linalg.manifold import frames
from gramian.nn import fixed_head
from gramian.papers.representation import equiangular_basis_vectors as row
from support import status_of


def random_unit(count, dim, alpha=None, *, generator=None, **rest):
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator), dim=-1)


@pytest.mark.slow
def test_the_quick_experiment_passes(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_random_vectors_in_place_of_equiangular_ones_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "equiangular_vectors", random_unit)
    status, run = status_of(row.small_sets_reach_the_bound, tmp_path)
    assert status == "failed"
    assert not any(c.ok for c in run.checks)
    status, run = status_of(row.large_sets_are_made_in_blocks, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_a_generator_that_holds_the_whole_gram_matrix_fails(tmp_path, monkeypatch):
    original = frames.equiangular_vectors
    monkeypatch.setattr(frames, "equiangular_vectors", lambda *args, block, **rest: original(*args, block=4096, **rest))
    status, run = status_of(row.large_sets_are_made_in_blocks, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, True, False]


def test_a_head_that_ignores_its_features_fails(tmp_path, monkeypatch):
    def stub(self, z):
        return 0 * z.sum(-1, keepdim=True) + self.vectors[:, 0]

    monkeypatch.setattr(fixed_head.FixedHead, "forward", stub)
    status, run = status_of(row.fixed_head_classifies, tmp_path, seeds=1)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False, False]
