"""Row 10's checks fail when the method is not there."""

import pytest
import torch

from gramian import data
from gramian.papers.adaptation import svfit as paper
from gramian.surgery.adapters import svfit
from support import status_of

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all_minilm_l6_v2")


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_branch_that_adds_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(svfit.SVFitLinear, "branch", lambda self, x: 0 * (self.s.sum() + x @ self.Vh.T @ self.U.T))
    status, run = status_of(paper.starts_as_the_base_and_comes_back, tmp_path)
    assert status == "failed"
    assert any("with changed values" in claim for claim in false_claims(run))
    for part in (paper.gradient_is_uv, paper.recovers_a_target):
        assert status_of(part, tmp_path)[0] == "failed"


def test_scaling_without_the_vectors_fails(tmp_path, monkeypatch):
    """Right and left vectors shuffled among each other."""

    def branch(self, x):
        return ((x @ self.Vh.T) * (self.s - self.s0)) @ self.U.flip(1).T

    monkeypatch.setattr(svfit.SVFitLinear, "branch", branch)
    for part in (paper.starts_as_the_base_and_comes_back, paper.gradient_is_uv, paper.recovers_a_target):
        assert status_of(part, tmp_path)[0] == "failed"


def test_an_adapter_that_writes_into_the_base_fails(tmp_path, monkeypatch):
    merge = svfit.SVFitLinear.merge

    def careless(self):
        with torch.no_grad():
            self.base.weight.copy_(self.weight)
            self.base.weight = torch.nn.Parameter(self.base.weight + 1)
        merge(self)

    monkeypatch.setattr(svfit.SVFitLinear, "merge", careless)
    status, run = status_of(paper.starts_as_the_base_and_comes_back, tmp_path)
    assert status == "failed"
    assert "entries of the weights" in false_claims(run)[-1]


@needs_minilm
def test_half_the_values_fail_the_counts(tmp_path, monkeypatch):
    attach = svfit.attach_svfit
    monkeypatch.setattr(svfit, "attach_svfit", lambda model, pattern: attach(model, pattern, rank=192))
    status, run = status_of(paper.counts_on_minilm, tmp_path)
    assert status == "failed"
    assert len(false_claims(run)) == 2


@needs_minilm
def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
