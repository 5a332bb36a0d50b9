"""Row 139's checks fail when the method is not there."""

import torch

from gramian.linalg.signal import decorrelate
from gramian.models.series import olinear as models
from gramian.nn.series import normlin, revin
from gramian.papers.state import olinear
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_the_identity_as_basis_fails(tmp_path, monkeypatch):
    def identity(matrix):
        return torch.eye(len(matrix)).double(), torch.ones(len(matrix)).double()

    monkeypatch.setattr(decorrelate, "decorrelating_basis", identity)
    status, run = status_of(olinear.basis_decorrelates, tmp_path)
    assert status == "failed"
    assert "AR(1)" in false_claims(run)[0]
    status, run = status_of(olinear.slow_series_give_cosines, tmp_path)
    assert status == "failed"


def test_eigenvectors_in_the_other_order_fail(tmp_path, monkeypatch):
    plain = decorrelate.decorrelating_basis
    monkeypatch.setattr(decorrelate, "decorrelating_basis", lambda matrix: tuple(t.flip(-1) for t in plain(matrix)))
    status, run = status_of(olinear.slow_series_give_cosines, tmp_path)
    assert status == "failed"


def test_covariance_in_the_place_of_correlation_fails(tmp_path, monkeypatch):
    def covariance(series, size):
        steps = series[:, 0].double().unfold(0, size, 1)
        return torch.cov(steps.mT)

    monkeypatch.setattr(decorrelate, "step_correlation", covariance)
    status, run = status_of(olinear.basis_decorrelates, tmp_path)
    assert status == "failed"


def test_weights_that_do_not_sum_to_one_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(normlin.NormLin, "mixing", lambda self: self.weight.exp())
    status, run = status_of(olinear.normlin_is_a_cheap_average, tmp_path)
    assert status == "failed"
    assert any("sum to 1" in claim for claim in false_claims(run))


def test_no_mixing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(normlin.NormLin, "forward", lambda self, x: self.out(self.values(x)))
    status, run = status_of(olinear.normlin_is_a_cheap_average, tmp_path)
    assert status == "failed"
    assert any("reaches" in claim for claim in false_claims(run))


def test_attention_in_its_place_costs_too_much(tmp_path, monkeypatch):
    attention = olinear._Attention(128, 8)
    monkeypatch.setattr(normlin.NormLin, "forward", lambda self, x: attention(x))
    status, run = status_of(olinear.normlin_is_a_cheap_average, tmp_path)
    assert status == "failed"
    assert any("operations" in claim for claim in false_claims(run))


def test_without_normalization_the_scale_does_not_come_back(tmp_path, monkeypatch):
    nothing = revin.Scale(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    monkeypatch.setattr(revin.ReversibleNorm, "normalize", lambda self, x, seen=None: (x, nothing))
    status, run = status_of(olinear.scales_come_back, tmp_path)
    assert status == "failed"


def test_a_mean_for_a_forecast_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(models.OLinear, "forward", lambda self, x: x.mean(1, keepdim=True).expand(-1, 6, -1))
    status, run = status_of(olinear.scales_come_back, tmp_path)
    assert status == "failed"


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(olinear.experiment, tmp_path)
    assert status == "ok", false_claims(run)
