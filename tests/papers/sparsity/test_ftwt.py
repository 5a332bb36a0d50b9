import pytest
import torch

from gramian.nn.sparse import firing
from gramian.papers.sparsity import ftwt as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_dropping_the_channel_that_crosses_the_mass_fails(tmp_path, monkeypatch):
    def short(maps, *, mass=None, keep=None):
        share = maps.flatten(2).amax(2)
        share, order = (share / share.sum(1, keepdim=True)).sort(descending=True)
        return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, (share.cumsum(1) <= mass) & (share > 0))

    assert status_of(paper.targets_hold_the_mass, tmp_path)[0] == "ok"
    monkeypatch.setattr(firing, "firing_mask", short)
    status, run = status_of(paper.targets_hold_the_mass, tmp_path)
    assert status == "failed"
    assert "a loop's" in false_claims(run)[0]


def test_a_mask_that_keeps_all_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(firing, "firing_mask", lambda maps, mass=None, keep=None: maps.flatten(2).amax(2) >= 0)
    status, run = status_of(paper.targets_hold_the_mass, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, True, False]


def test_computing_everything_and_masking_afterwards_fails(tmp_path, monkeypatch):
    def masked(self, x):
        on = self.predictor(x) > 0
        out = self.activation(self.norm(self.conv(x))) * on[:, :, None, None]
        self._note(firing._not_zero(x), on, out, torch.full((1,), torch.nan, dtype=torch.float64))
        return out

    assert status_of(paper.what_is_off_is_not_computed, tmp_path, images=4)[0] == "ok"
    monkeypatch.setattr(firing.MaskedConvBNReLU, "_gathered", masked)
    status, run = status_of(paper.what_is_off_is_not_computed, tmp_path, images=4)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False, False]


def test_predictors_that_keep_everything_on_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(firing.MaskPredictor, "forward", lambda self, x: self.linear(x.amax((2, 3))) * 0 + 1)
    status, run = status_of(
        paper.fewer_operations_same_answers, tmp_path, seeds=1, masses=(0.9,), images=128, base_epochs=2, epochs=1,
        blind_epochs=1, bounds={0.9: (0.85, 1.0, 0.2)}, agreement=0.75,
    )  # fmt: skip
    assert status == "failed"
    false = false_claims(run)
    assert any("share of the operations left" in claim for claim in false)
    assert any("forecast" in claim for claim in false)


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    assert status_of(paper.experiment, tmp_path)[0] == "ok"
