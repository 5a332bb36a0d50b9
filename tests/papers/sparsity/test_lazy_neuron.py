import torch

from gramian.analysis import activity
from gramian.analysis.metrics import calibration
from gramian.nn import mlp
from gramian.papers.sparsity import lazy_neuron as paper
from gramian.surgery.adapters import transfer
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_quick_ends_well(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} >= {"table", "figure", "text"}


def test_a_constant_share_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(activity, "nonzero_share", lambda model, batches, layers=None: [0.5, 0.5])
    status, run = status_of(paper.counts_are_right, tmp_path)
    assert status == "failed"
    assert any("numpy" in c for c in false_claims(run))
    monkeypatch.setattr(transfer, "train", lambda *arguments, **more: [0.0])
    status, run = status_of(paper.sparsity_appears_early, tmp_path)
    assert status == "failed"
    assert any("fall" in c for c in false_claims(run))


def test_a_plain_relu_in_place_of_top_k_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(mlp, "TopKReLU", lambda k: torch.nn.ReLU())
    status, run = status_of(paper.counts_are_right, tmp_path)
    assert status == "failed"
    assert any("Top-4" in c for c in false_claims(run))


def test_no_drift_fails(tmp_path, monkeypatch):
    def noise(hidden, classes, draws, generator, *, loss="cross_entropy", batch=5000):
        return torch.randn(len(hidden), generator=generator, dtype=torch.float64)

    monkeypatch.setattr(activity, "drift_statistic", noise)
    status, run = status_of(paper.active_units_are_pushed_down, tmp_path)
    assert status == "failed"


def test_a_calibration_error_of_zero_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "ece", lambda probabilities, labels, bins=15: 0.0)
    assert status_of(paper.calibration_by_hand, tmp_path)[0] == "failed"
