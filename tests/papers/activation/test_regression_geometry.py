import torch

from gramian.analysis.geometry import dimension, regression_collapse
from gramian.papers.activation import regression_geometry
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def fails(run, status, *parts):
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in false_claims(run)), (part, false_claims(run))


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(regression_geometry.experiment, tmp_path)
    assert status == "ok", false_claims(run)


def test_a_dimension_that_is_the_width_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(dimension, "intrinsic_dimension", lambda x, method="twonn", **rest: float(x.shape[1]))
    status, run = status_of(regression_geometry.dimensions_are_right, tmp_path)
    fails(run, status, "dimension 2", "dimension 5", "dimension 10", "principal", "likelihood", "line")
    status, run = status_of(regression_geometry.twonn_agrees, tmp_path)
    fails(run, status, "scikit-learn")


def test_a_collapse_that_is_always_or_never_there_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(regression_collapse, "nrc1", lambda x, targets: torch.zeros(()))
    status, run = status_of(regression_geometry.collapse_is_measured, tmp_path)
    fails(run, status, "round noise", "by numpy")
    monkeypatch.setattr(regression_collapse, "nrc1", lambda x, targets: x.var(0).mean())
    status, run = status_of(regression_geometry.collapse_is_measured, tmp_path)
    fails(run, status, "plane", "scale")


def test_a_regime_that_does_not_look_at_the_features_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        regression_collapse, "regression_regime",
        lambda h, y: regression_collapse.Regime(6.0, 5.0, "under-compressed", 0.2),
    )  # fmt: skip
    status, run = status_of(regression_geometry.regimes_are_told, tmp_path, decays=(0.0, 5e-2), steps=60)
    fails(run, status, "largest decay", "regimes:", "ID_H of the best")
