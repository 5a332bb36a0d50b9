"""Row 1: the experiment passes, and fails where a stub stands in a method's place."""

import numpy as np
import pytest

from gramian.estimators.series import augmented_covariance as acm
from gramian.estimators.series import embedding
from gramian.linalg.manifold import spd
from gramian.papers.geometry import augmented_covariance as row
from support import status_of


@pytest.mark.data
@pytest.mark.slow
def test_the_quick_experiment_passes(tmp_path):
    pytest.importorskip("pyriemann")
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]


def false_checks(part, tmp_path):
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    return [c.claim for c in run.checks if not c.ok]


def test_delays_that_repeat_noise_fail(tmp_path, monkeypatch):
    def stub(x, order, lag):
        reach = (order - 1) * lag
        noise = np.random.default_rng(0).standard_normal(x.shape)
        return np.concatenate([(x if k == 0 else noise + k)[:, reach:] for k in range(order)], axis=2)

    monkeypatch.setattr(acm, "delay_embedding", stub)
    assert len(false_checks(row.delays_see_what_covariance_cannot, tmp_path)) == 1
    assert "VAR(2)" in false_checks(row.yule_walker_recovers_the_model, tmp_path)[0]


def test_an_identity_in_place_of_the_covariance_fails(tmp_path, monkeypatch):
    def stub(self, X):
        size = self.order * self.n_channels_
        return np.broadcast_to(np.eye(size), (len(X), size, size)).copy()

    monkeypatch.setattr(acm.AugmentedCovariance, "transform", stub)
    assert false_checks(row.yule_walker_recovers_the_model, tmp_path)


def test_a_euclidean_tangent_space_fails(tmp_path, monkeypatch):
    pytest.importorskip("pyriemann")
    monkeypatch.setattr(spd.AffineInvariant, "log", lambda self, P, Q: Q - P)
    assert "pyriemann" in false_checks(row.order_one_is_the_covariance, tmp_path)[0]


def test_constant_rules_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "false_neighbours", lambda series, lag, max_order: np.zeros(max_order))
    assert any("order" in claim for claim in false_checks(row.rules_find_known_dimensions, tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(embedding, "mutual_information", lambda series, max_lag: -np.arange(max_lag, dtype=float))
    assert any("mutual information" in claim for claim in false_checks(row.rules_find_known_dimensions, tmp_path))


@pytest.mark.data
def test_the_ordinary_covariance_does_not_reach_the_augmented_one_on_vowels(tmp_path, monkeypatch):
    original = acm.AugmentedCovarianceClassifier._pipeline
    monkeypatch.setattr(acm.AugmentedCovarianceClassifier, "_pipeline", lambda self, order, lag: original(self, 1, 1))
    assert len(false_checks(row.vowels, tmp_path)) == 2
