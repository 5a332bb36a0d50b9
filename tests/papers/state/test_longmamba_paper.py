"""Row 27's checks fail when the method is not there."""

import contextlib

import torch

from gramian.papers.state import longmamba as row
from gramian.surgery.state import longmamba
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_filter_that_filters_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(longmamba, "enlarge", lambda *a, **k: contextlib.nullcontext())
    for part in (row.filtering_skips_tokens, row.decay_is_held, row.short_texts_are_untouched):
        status, _ = status_of(part, tmp_path / part.__name__)
        assert status == "failed", part


def test_a_threshold_of_the_mean_fails(tmp_path, monkeypatch):
    """Half of the tokens kept, whatever the length."""
    monkeypatch.setattr(
        longmamba, "threshold", lambda profile, length, clamp=None: profile.mean(1) * (length > profile.shape[1])
    )
    status, run = status_of(row.decay_is_held, tmp_path)
    assert status == "failed"
    assert any("filtered" in claim for claim in false_claims(run))


def test_a_calibration_of_zeros_fails(tmp_path, monkeypatch):
    calibrate = longmamba.calibrate

    def zeros(model, ids, mask=None):
        found = calibrate(model, ids, mask)
        return {n: longmamba.ChannelSteps(k.decay, torch.zeros_like(k.profile)) for n, k in found.items()}

    monkeypatch.setattr(longmamba, "calibrate", zeros)
    assert status_of(row.filtering_skips_tokens, tmp_path)[0] == "failed"


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", false_claims(run)
