import numpy as np

from gramian.estimators import lowrank_sensing
from gramian.linalg.factor import sensing
from gramian.papers.curvature import matrix_sensing
from gramian.science import matrix_sensing as science
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_rebalancing_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(sensing, "rebalance_step", lambda left, right, beta=1.0: (left, right))
    status, run = status_of(matrix_sensing.one_step_frees_the_rate, tmp_path)
    assert status == "failed"
    assert any("rebalanced at step 600" in c for c in false_claims(run))


def test_a_rebalancing_that_changes_the_product_fails(tmp_path, monkeypatch):
    step = sensing.rebalance_step
    monkeypatch.setattr(sensing, "rebalance_step", lambda left, right, beta=1.0: (step(left, right)[0], right))
    status, run = status_of(matrix_sensing.one_step_frees_the_rate, tmp_path)
    assert status == "failed"
    assert any("leaves the product" in c for c in false_claims(run))


def test_balanced_factors_in_place_of_unequal_ones_fail(tmp_path, monkeypatch):
    descend = sensing.descend
    monkeypatch.setattr(
        sensing, "descend", lambda e, left, right, lr, steps, **s: descend(e, left, left.copy(), lr, steps, **s)
    )
    status, run = status_of(matrix_sensing.imbalance_sets_the_rate, tmp_path)
    assert status == "failed"
    assert any("5,000" in c for c in false_claims(run))


def test_descent_that_forgets_surplus_columns_fails(tmp_path, monkeypatch):
    start = science.MatrixSensing.gd
    monkeypatch.setattr(
        science.MatrixSensing, "gd", lambda self, kind, k, *arguments, **s: start(self, kind, 2, *arguments, **s)
    )
    status, run = status_of(matrix_sensing.symmetric_form_is_slow, tmp_path)
    assert status == "failed"
    assert any("k = 4" in c for c in false_claims(run))


def test_an_estimator_of_noise_fails(tmp_path, monkeypatch):
    def fit(self, A, y):
        self.matrix_ = np.random.default_rng(0).standard_normal(A.shape[1:])
        return self

    monkeypatch.setattr(lowrank_sensing.LowRankSensing, "fit", fit)
    status, run = status_of(matrix_sensing.estimator_recovers, tmp_path)
    assert status == "failed"
    assert any("R²" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(matrix_sensing.experiment, tmp_path)
    assert status == "ok", false_claims(run)
