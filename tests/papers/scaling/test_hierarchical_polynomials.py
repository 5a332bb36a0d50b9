import numpy as np
import torch

from gramian.estimators.regression import three_layer
from gramian.linalg.functions import hermite
from gramian.papers.scaling import hierarchical_polynomials as paper
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_powers_in_the_place_of_hermite_polynomials_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(hermite, "hermite", lambda degree, x: x**degree)
    status, run = status_of(paper.polynomials_are_orthogonal, tmp_path)
    fails(run, status, "products", "degree 4")


def test_a_quadratic_part_of_zeros_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(hermite, "quadratic_part", lambda x, values: torch.zeros(x.shape[1], x.shape[1]).double())
    status, run = status_of(paper.polynomials_are_orthogonal, tmp_path)
    fails(run, status, "quadratic part")


def test_features_of_the_wrong_degree_fail(tmp_path, monkeypatch):
    right = hermite.hermite
    monkeypatch.setattr(hermite, "hermite", lambda degree, x: right(1, x))
    status, run = status_of(paper.features_are_learned, tmp_path)
    fails(run, status, "error of three layers", "over random features", "correlation of the feature")


def test_a_flag_that_is_never_raised_and_a_mean_as_prediction_fail(tmp_path, monkeypatch):
    fit = three_layer.LayerwiseThreeLayer.fit

    def unflagged(self, X, y):
        fit(self, X, y)
        self.weak_feature_ = False
        return self

    monkeypatch.setattr(three_layer.LayerwiseThreeLayer, "fit", unflagged)
    status, run = status_of(paper.without_a_linear_part, tmp_path / "flag", dim=12)
    fails(run, status, "z² − 1: the feature is flagged")
    monkeypatch.setattr(three_layer.LayerwiseThreeLayer, "predict", lambda self, X: np.zeros(len(X)))
    status, run = status_of(paper.features_are_learned, tmp_path / "mean")
    fails(run, status, "error of three layers", "over random features")
