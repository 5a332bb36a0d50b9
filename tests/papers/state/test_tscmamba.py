"""Row 148's checks fail when the method is not there."""

import torch

from gramian.linalg.signal import rocket, scalogram
from gramian.models.series import tscmamba as models
from gramian.papers.state import tscmamba
from support import status_of


def false_claims(run):
    return " | ".join(c.claim for c in run.checks if not c.ok)


def test_a_scan_one_way_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(models.TangoScan, "forward", lambda self, x: x + self.mamba(x)[0])
    status, run = status_of(tscmamba.tango_does_not_know_its_direction, tmp_path)
    assert status == "failed"
    assert "flipping the tokens" in false_claims(run)


def test_a_scan_that_is_blind_to_order_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(models.TangoScan, "forward", lambda self, x: x.mean(1, keepdim=True).expand_as(x))
    status, run = status_of(tscmamba.tango_does_not_know_its_direction, tmp_path)
    assert status == "failed"
    assert "orders of the tokens" in false_claims(run)


def test_a_plain_sum_of_views_fails(tmp_path, monkeypatch):
    views = models.TSCMamba.views

    def plain(self, images, features):
        first, _, second = views(self, images, features)
        return first, first + second, second

    monkeypatch.setattr(models.TSCMamba, "views", plain)
    status, run = status_of(tscmamba.share_drops_a_view, tmp_path)
    assert status == "failed"
    assert "λ = 2" in false_claims(run)


def test_a_transform_that_hears_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(scalogram, "scalogram", lambda x, s: x[..., None, :].abs().expand(*x.shape[:-1], len(s), -1))
    status, run = status_of(tscmamba.views_see_what_they_should, tmp_path)
    assert status == "failed"
    assert "five tones" in false_claims(run)


def test_features_without_kernels_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(rocket.RandomKernels, "features", lambda self, x: torch.zeros(*x.shape[:-1], 2 * self.count))
    status, run = status_of(tscmamba.views_see_what_they_should, tmp_path)
    assert status == "failed"
    assert "numpy's correlations" in false_claims(run)


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(tscmamba.experiment, tmp_path)
    assert status == "ok", false_claims(run)
