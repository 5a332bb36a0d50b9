import torch

from gramian.analysis.explain import cam
from gramian.papers.explanation import eigen_cam
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def mean_map(activations, *, center=False, size=None):
    heat = activations.abs().mean(1)
    heat = heat / heat.amax((1, 2), keepdim=True)
    return heat if size is None else torch.nn.functional.interpolate(heat[:, None], size=size)[:, 0]


def test_the_mean_of_the_channels_is_not_the_first_direction(tmp_path, monkeypatch):
    monkeypatch.setattr(cam, "eigen_cam", mean_map)
    status, run = status_of(eigen_cam.is_the_first_singular_direction, tmp_path)
    assert status == "failed"
    for claim in ("full SVD", "orthogonal matrix"):
        assert any(claim in c for c in false_claims(run)), claim


def test_a_map_that_asks_the_class_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(cam, "EigenCAM", cam.GradCAM)
    status, run = status_of(eigen_cam.does_not_ask_the_classifier, tmp_path)
    assert status == "failed"
    assert any("Eigen-CAM" in c for c in false_claims(run))


def test_a_baseline_that_sees_no_class_fails(tmp_path, monkeypatch):
    class Blind(cam.EigenCAM):
        def __call__(self, x, labels=None):
            return super().__call__(x)

    monkeypatch.setattr(cam, "GradCAM", Blind)
    status, run = status_of(eigen_cam.does_not_ask_the_classifier, tmp_path)
    assert status == "failed"
    assert sum("Grad-CAM" in c for c in false_claims(run)) == 2


def test_a_map_spread_evenly_finds_nothing(tmp_path, monkeypatch):
    def even(activations, *, center=False, size=None):
        return torch.ones(len(activations), *(size or activations.shape[2:]))

    monkeypatch.setattr(cam, "eigen_cam", even)
    status, run = status_of(eigen_cam.finds_the_object, tmp_path, count=2, layers=("_blocks.15",))
    assert status == "failed"
    assert len(false_claims(run)) == 4


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(eigen_cam.experiment, tmp_path)
    assert status == "ok", false_claims(run)
