import numpy as np
import pytest

from gramian import data, models
from gramian.estimators.anomaly import features, gaussian_ad
from gramian.models.vision import efficientnet_lite0
from gramian.papers.activation import gaussian_ad as paper
from support import status_of

needs_data = pytest.mark.skipif(
    not all(map(data.is_here, paper.CARD.data)), reason=f"gramian data fetch {' '.join(paper.CARD.data)}"
)


def zeros(self, X):
    return np.zeros(len(X[0]) if isinstance(X, list) else len(X))


def euclidean(self, X):
    return np.mean([np.linalg.norm(x - m, axis=1) for x, m in zip(X, self.means_)], axis=0)


@pytest.mark.parametrize("stub", [zeros, euclidean])
def test_a_stub_of_the_distance_fails(stub, monkeypatch, tmp_path):
    assert status_of(paper.distance_is_mahalanobis, tmp_path)[0] == "ok"
    monkeypatch.setattr(gaussian_ad.GaussianAD, "distance", stub)
    status, run = status_of(paper.distance_is_mahalanobis, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False, False]


def test_a_stub_of_the_reduction_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(gaussian_ad.GaussianAD, "_components", lambda self, centred: np.eye(centred.shape[1]))
    status, run = status_of(paper.distance_is_mahalanobis, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False, False]


@pytest.mark.parametrize("threshold", [0.0, 1e9])
def test_a_stub_of_the_working_point_fails(threshold, monkeypatch, tmp_path):
    assert status_of(paper.false_alarms_are_as_asked, tmp_path)[0] == "ok"
    monkeypatch.setattr(gaussian_ad.GaussianAD, "threshold", lambda self, p: threshold)
    status, run = status_of(paper.false_alarms_are_as_asked, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False]


@needs_data
def test_an_untrained_network_fails(monkeypatch, tmp_path):
    assert status_of(paper.network_is_the_published_one, tmp_path)[0] == "ok"
    monkeypatch.setattr(models, "pretrained", lambda name: efficientnet_lite0().eval())
    status, run = status_of(paper.network_is_the_published_one, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False, False, True]


@needs_data
def test_a_detector_that_sees_nothing_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(gaussian_ad.GaussianAD, "distance", zeros)
    status, run = status_of(paper.grass_in_bricks, tmp_path, size=64, train=12, test=6)
    assert status == "failed"
    assert run.checks[0].measured == 0.5


@needs_data
def test_features_of_noise_fail(monkeypatch, tmp_path):
    def noise(self, X):
        return [np.random.default_rng(len(X)).normal(size=(len(X), 4))]

    monkeypatch.setattr(features.LevelFeatures, "transform", noise)
    assert status_of(paper.grass_in_bricks, tmp_path)[0] == "failed"


@needs_data
def test_turned_patches_fail_where_every_reduction_is_the_same(monkeypatch, tmp_path):
    def flat(self, X):
        return [np.array([picture.mean(axis=0) for picture in X], dtype=float)]

    monkeypatch.setattr(features.LevelFeatures, "transform", flat)  # mean columns of pixels in place of features
    monkeypatch.setattr(gaussian_ad.GaussianAD, "distance", euclidean)
    status, run = status_of(paper.turned_patches, tmp_path, seeds=1)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False] * 5
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}


@needs_data
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert len(run.checks) == 10
    assert {p["type"] for p in run.parts} >= {"figure", "table"}
