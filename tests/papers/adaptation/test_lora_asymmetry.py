"""Row 183's checks fail when the method is not there."""

import torch

from gramian.analysis import adapter_asymmetry as asymmetry
from gramian.papers.adaptation import lora_asymmetry as paper
from gramian.surgery.adapters import lora
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_closed_form_that_ignores_the_inputs_fails(tmp_path, monkeypatch):
    real = asymmetry.excess_freeze_A

    def white(change, covariance, frozen):
        return real(change, torch.eye(len(covariance)).to(change), frozen)

    monkeypatch.setattr(asymmetry, "excess_freeze_A", white)
    status, run = status_of(paper.closed_forms_are_optimal, tmp_path)
    assert status == "failed"
    assert any("A frozen" in claim for claim in false_claims(run))


def test_no_asymmetry_fails(tmp_path, monkeypatch):
    """Freezing A costs what freezing B costs."""
    monkeypatch.setattr(
        asymmetry, "excess_freeze_A", lambda d, s, q: asymmetry.excess_freeze_B(d, s, q[:, : len(d)].T.contiguous())
    )
    status, run = status_of(paper.freezing_A_costs_less, tmp_path)
    assert status == "failed"
    assert any("A frozen over B frozen" in claim for claim in false_claims(run))


def test_a_closed_form_for_B_that_leaves_everything_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(asymmetry, "excess_freeze_B", lambda d, s, u: torch.trace(d @ s @ d.T))
    for part in (paper.closed_forms_are_optimal, paper.freezing_A_costs_less):
        assert status_of(part, tmp_path)[0] == "failed"


def test_factors_that_are_not_uniform_fail(tmp_path, monkeypatch):
    """The first coordinates in place of a random subspace."""
    monkeypatch.setattr(lora, "draw", lambda init, rank, width, generator: torch.eye(rank, width))
    status, run = status_of(paper.freezing_A_costs_less, tmp_path)
    assert status == "failed"


def test_training_both_factors_fails_the_counts(tmp_path, monkeypatch):
    init = lora.LoRALinear.__init__
    monkeypatch.setattr(lora.LoRALinear, "__init__", lambda self, *a, train="AB", **k: init(self, *a, train="AB", **k))
    status, run = status_of(paper.half_the_parameters, tmp_path)
    assert status == "failed"
    assert "numbers trained" in false_claims(run)[0]


def test_a_layer_without_its_branch_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(lora.LoRALinear, "branch", lambda self, x: 0 * (x @ self.A.T @ self.B.T))
    assert status_of(paper.closed_forms_are_optimal, tmp_path)[0] == "failed"
    assert status_of(paper.peft_reads_it, tmp_path)[0] == "failed"


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
