"""Row 17's checks fail when the method is not there."""

import pytest
import torch

from gramian.linalg.factor import tensor as tensors
from gramian.papers.adaptation import flora_tucker as paper
from gramian.surgery.adapters import tucker
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_no_branch_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(tucker.TuckerAdapter, "branch", lambda self, x: torch.zeros_like(self.base(x)))
    for part, word in ((paper.tucker_form_is_exact, "small path"), (paper.two_axes_are_lora, "LoRA")):
        status, run = status_of(part, tmp_path)
        assert status == "failed"
        assert any(word in claim for claim in false_claims(run))


def test_a_core_that_does_not_start_at_zero_fails(tmp_path, monkeypatch):
    init = tucker.TuckerAdapter.__init__

    def filled(self, *arguments, **settings):
        init(self, *arguments, **settings)
        with torch.no_grad():
            self.core.fill_(0.1)

    monkeypatch.setattr(tucker.TuckerAdapter, "__init__", filled)
    for part in (paper.tucker_form_is_exact, paper.counts_on_efficientnet):
        status, run = status_of(part, tmp_path)
        assert status == "failed"


def test_a_change_of_rank_one_fails(tmp_path, monkeypatch):
    real = tensors.tucker_to_tensor
    monkeypatch.setattr(
        tensors, "tucker_to_tensor", lambda core, factors: real(core, [f[:, :1].expand_as(f) for f in factors])
    )
    status, run = status_of(paper.tucker_form_is_exact, tmp_path)
    assert status == "failed"
    assert any("multilinear ranks" in claim for claim in false_claims(run))


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_decomposition_that_loses_fails(tmp_path, monkeypatch, share):
    real = tensors.hosvd
    monkeypatch.setattr(tensors, "hosvd", lambda t, ranks: real(t * share, ranks))
    status, run = status_of(paper.full_ranks_reach_any_change, tmp_path)
    assert status == "failed"
    assert any("full ranks" in claim for claim in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
