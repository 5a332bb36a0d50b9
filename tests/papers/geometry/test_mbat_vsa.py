"""Row 0: the experiment passes, and fails where a stub stands in a method's place."""

import pytest
import torch

from gramian.estimators import json_vsa
from gramian.linalg import vsa
from gramian.linalg.manifold import orthogonal
from gramian.papers.geometry import mbat_vsa as row
from support import status_of


def false_checks(part, tmp_path, **options):
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    return [c.claim for c in run.checks if not c.ok]


@pytest.mark.slow
def test_the_quick_experiment_passes(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def test_gaussian_matrices_in_place_of_orthogonal_ones_fail(tmp_path, monkeypatch):
    def gaussian(n, generator=None, *, dtype=torch.float32):
        return torch.randn(n, n, generator=generator, dtype=dtype) / n**0.5

    monkeypatch.setattr(orthogonal, "haar", gaussian)
    assert any(c.startswith("haar") for c in false_checks(row.binding_keeps_geometry, tmp_path, dim=64))


def test_an_identity_for_every_role_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(vsa.Space, "_apply", lambda self, role, x, times, transpose: x)
    assert len(false_checks(row.binding_keeps_order, tmp_path)) == 3
    assert false_checks(row.records_are_read_back, tmp_path)
    assert any("reverse" in c for c in false_checks(row.json_codes_are_repeatable, tmp_path))


def test_a_hadamard_transform_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(vsa, "fwht", lambda x: x)
    assert any(c.startswith("hd") for c in false_checks(row.binding_keeps_order, tmp_path))


def test_hard_codes_in_place_of_soft_ones_fail(tmp_path, monkeypatch):
    original = json_vsa.JSONVectorizer._leaf

    def stub(self, value, path):
        return self.space_.item(f"{value!r}")

    monkeypatch.setattr(json_vsa.JSONVectorizer, "_leaf", stub)
    claims = false_checks(row.soft_codes_follow_likeness, tmp_path)
    assert len(claims) == 3
    assert original is not stub
