import torch

from gramian.nn.sparse import delta
from gramian.papers.sparsity import delta_activation as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_bias_in_every_frame_drifts(tmp_path, monkeypatch):
    real = delta._Accumulator.forward

    def again(self, change):
        y = real(self, change)
        self.state = self.state + 0.01 * torch.ones_like(self.state)
        return y

    monkeypatch.setattr(delta._Accumulator, "forward", again)
    status, run = status_of(paper.streams_do_not_drift, tmp_path, frames=10)
    assert status == "failed"
    assert "stream against" in false_claims(run)[0]


def test_a_plain_straight_through_gradient_fails(tmp_path, monkeypatch):
    def plain(self, x):
        q = self.threshold.abs()
        return delta._Quantize.apply(x, q.detach()) + (x / q).detach().round() * (q - q.detach())

    monkeypatch.setattr(delta.DeltaActivation, "quantize", plain)
    status, run = status_of(paper.gradients_are_the_papers, tmp_path)
    assert status == "failed"
    assert false_claims(run) == ["gradient of the threshold"]


def test_counting_every_entry_fails(tmp_path, monkeypatch):
    real = delta.DeltaLinear._products
    monkeypatch.setattr(
        delta.DeltaLinear, "_products", lambda self, d: (real(self, d)[0], d.numel() * len(self.layer.weight))
    )
    status, run = status_of(paper.what_stands_still_is_free, tmp_path)
    assert status == "failed"
    assert any("constant clip" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
