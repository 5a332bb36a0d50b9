import torch

from gramian.analysis.geometry import collapse, few_shot, statistics
from gramian.papers.collapse import nc_transfer
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def fails(run, status, *parts):
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in false_claims(run)), (part, false_claims(run))


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(nc_transfer.experiment, tmp_path)
    assert status == "ok", false_claims(run)


def test_a_constant_in_place_of_the_variance_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "cdnv", lambda stats, reduce="mean": 0.01 * stats.means[0, 0].abs().clamp(max=1))
    status, run = status_of(nc_transfer.variance_is_exact, tmp_path)
    fails(run, status, "isotropic")
    monkeypatch.setattr(collapse, "cdnv", lambda stats, reduce="mean": torch.tensor(0.01).double())
    status, run = status_of(nc_transfer.variance_bounds_the_error, tmp_path, pairs=60)
    fails(run, status, "heavy-tailed")


def test_statistics_that_forget_earlier_batches_fail(tmp_path, monkeypatch):
    class Forgetful(statistics.ClassStatistics):
        def merge(self, other):
            self.counts, self.means = other.counts, other.means
            self.spreads, self.scatter = other.spreads, other.scatter

    monkeypatch.setattr(statistics, "ClassStatistics", Forgetful)
    status, run = status_of(nc_transfer.variance_is_exact, tmp_path)
    fails(run, status, "batches of 777")


def test_a_classifier_that_ignores_its_input_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "nearest_mean", lambda means, x: torch.zeros(x.shape[:-1], dtype=torch.int64))
    status, run = status_of(nc_transfer.variance_bounds_the_error, tmp_path, pairs=60)
    fails(run, status, "heavy-tailed", "Φ")


def test_an_accuracy_that_is_made_up_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        few_shot, "few_shot_accuracy",
        lambda x, y, *, count, **rest: few_shot.FewShot(0.9, 0.01, torch.full((count,), 0.9, dtype=torch.float64)),
    )  # fmt: skip
    status, run = status_of(nc_transfer.episodes_agree_with_centroids, tmp_path)
    fails(run, status, "NearestCentroid")


def test_networks_that_are_not_trained_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(nc_transfer, "_fit", lambda *args: None)
    status, run = status_of(nc_transfer.collapse_transfers, tmp_path)
    fails(run, status, "falls by training", "over that after", "5-shot accuracy")
    status, run = status_of(nc_transfer.digits_collapse, tmp_path, seeds=1, epochs=5)
    fails(run, status, "held out")
