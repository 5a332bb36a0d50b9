import torch

from gramian.linalg.spectral import covariance
from gramian.papers.activation import eigenshield as paper
from gramian.surgery.defend import eigenshield
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_spectrum_without_an_edge_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(covariance, "marchenko_pastur_edges", lambda ratio, variance=1.0: (0.0, variance))
    status, run = status_of(paper.noise_has_no_outliers, tmp_path / "noise", seeds=3)
    fails(run, status, "pure noise")
    monkeypatch.undo()
    monkeypatch.setattr(covariance, "fit_noise", lambda values, ratio: float(values.mean()))
    status, run = status_of(paper.spikes_are_where_they_should_be, tmp_path / "mean", draws=2, samples=300)
    fails(run, status, "variance of the noise")


def test_limits_without_the_noise_s_push_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(covariance, "spiked_covariance", lambda s, r, v=1.0: (s, torch.ones_like(s)))
    status, run = status_of(paper.spikes_are_where_they_should_be, tmp_path, draws=3, samples=400)
    fails(run, status, "eigenvalue over the limit", "squared cosine")


def test_a_shield_that_does_nothing_or_keeps_the_largest_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(eigenshield.EigenShield, "transform", lambda self, e: e)
    status, run = status_of(paper.planted_attacks_are_cut, tmp_path / "nothing")
    fails(run, status, "attack that is left")
    status, run = status_of(paper.digits_under_attack, tmp_path / "digits", seeds=1, steps=100)
    fails(run, status, "shield less none")
    monkeypatch.setattr(eigenshield.EigenShield, "transform", lambda self, e: 0 * e)
    status, run = status_of(paper.planted_attacks_are_cut, tmp_path / "zeros")
    fails(run, status, "meaning that is left")
    status, run = status_of(paper.digits_under_attack, tmp_path / "digits zeros", seeds=1, steps=100)
    fails(run, status, "none less shield")


def test_a_score_that_knows_nothing_of_the_attack_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(eigenshield, "robustness_score", lambda v, clean, adversarial: (clean @ v.to(clean)).var(0))
    status, run = status_of(paper.planted_attacks_are_cut, tmp_path)
    fails(run, status, "attack that is left", "meaning that is left")
