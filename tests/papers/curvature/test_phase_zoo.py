import torch

from gramian.analysis.landscape import bezier, metrics, similarity
from gramian.linalg.spectral import lanczos
from gramian.papers.curvature import phase_zoo
from gramian.science import model_zoo
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_weights_that_come_back_changed_fail(tmp_path, monkeypatch):
    read = model_zoo.ZooModel.state
    monkeypatch.setattr(model_zoo.ZooModel, "state", lambda self, epoch=None: {
        k: torch.zeros_like(v) for k, v in read(self, epoch).items()
    })  # fmt: skip
    status, run = status_of(phase_zoo.round_trip, tmp_path)
    assert status == "failed"
    assert any("bit for bit" in c for c in false_claims(run))


def test_metrics_that_measure_nothing_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(similarity, "linear_cka", lambda x, y: (x.mean() + y.mean()).abs())
    monkeypatch.setattr(lanczos, "hutch_plus_plus", lambda m, n, k, **s: lanczos.TraceEstimate(float(n), 0.0))
    monkeypatch.setattr(metrics, "landscape_metrics", lambda models, loss, batch, **s: {"hessian_top": 1.0})
    monkeypatch.setattr(bezier, "bezier_connect", lambda a, b, loss, data, **s: bezier.BezierCurve(b, a))
    status, run = status_of(phase_zoo.metrics_are_exact, tmp_path)
    assert status == "failed"
    for claim in ("rotation", "centred kernels", "trace", "largest eigenvalue", "ends of the curve", "mean loss"):
        assert any(claim in c for c in false_claims(run)), claim


def test_a_classifier_that_looks_at_the_loss_alone_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(model_zoo, "classify_phase", lambda m, t: "II" if m["train_loss"] > t.train_loss else "IV-B")
    status, run = status_of(phase_zoo.phases_are_told, tmp_path)
    assert status == "failed"
    assert any("told right" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(phase_zoo.experiment, tmp_path)
    assert status == "ok", false_claims(run)
