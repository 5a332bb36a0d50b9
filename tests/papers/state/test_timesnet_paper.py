"""Row 117's checks fail when the method is not there."""

import torch

from gramian.linalg.signal import period
from gramian.models.series import timesnet as models
from gramian.nn.series import inception
from gramian.papers.state import timesnet
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_fixed_periods_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(period, "dominant_periods", lambda x, k: (torch.tensor([24, 12])[:k], torch.ones(len(x), k)))
    status, run = status_of(timesnet.periods_are_found, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


def test_periods_without_an_order_fail(tmp_path, monkeypatch):
    plain = period.dominant_periods

    def weakest_first(x, k):
        periods, amplitudes = plain(x, k)
        return periods.flip(0), amplitudes.flip(1)

    monkeypatch.setattr(period, "dominant_periods", weakest_first)
    status, run = status_of(timesnet.periods_are_found, tmp_path)
    assert status == "failed"


def test_a_transposed_plane_fails(tmp_path, monkeypatch):
    fold, unfold = period.fold, period.unfold
    monkeypatch.setattr(period, "fold", lambda x, steps: fold(x, steps).mT.contiguous().view(*fold(x, steps).shape))
    monkeypatch.setattr(period, "unfold", unfold)
    status, run = status_of(timesnet.periods_are_found, tmp_path)
    assert status == "failed"
    status, run = status_of(timesnet.block_is_its_formula, tmp_path)
    assert status == "failed"


def test_a_sum_in_the_place_of_the_mean_fails(tmp_path, monkeypatch):
    plain = inception.Inception.merged

    def summed(self):
        weight, bias = plain(self)
        return weight * len(self.weights), bias * len(self.weights)

    monkeypatch.setattr(inception.Inception, "merged", summed)
    status, run = status_of(timesnet.inception_is_a_mean, tmp_path)
    assert status == "failed"


def test_equal_weights_fail(tmp_path, monkeypatch):
    def equal(self, x):
        found, _ = period.dominant_periods(x, self.periods)
        planes = [period.unfold(self.convolve(period.fold(x, p)), x.shape[1]) for p in found.tolist()]
        return x + torch.stack(planes).mean(0)

    monkeypatch.setattr(models.TimesBlock, "forward", equal)
    status, run = status_of(timesnet.block_is_its_formula, tmp_path)
    assert status == "failed"


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(timesnet.experiment, tmp_path)
    assert status == "ok", false_claims(run)
