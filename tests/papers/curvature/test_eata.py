import pytest
import torch

from gramian.lab import Run
from gramian.optim import continual
from gramian.papers.curvature import eata as paper
from gramian.surgery import adapt_online
from support import status_of


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return paper.trained(Run(tmp_path_factory.mktemp("eata"), show_progress=False), 1)


def everything(logits, mean, e0, eps, momentum=0.9):
    """Keeps all samples with one weight."""
    yes = torch.ones(len(logits), dtype=torch.bool)
    return adapt_online.Selection(yes, yes, torch.ones(len(logits)), logits.detach().float().softmax(-1).mean(0))


def wrong(run):
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_a_selection_that_keeps_everything_fails(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(adapt_online, "select", everything)
    status, run = status_of(paper.selection_by_loop, tmp_path)
    assert (status, wrong(run)) == ("failed", [0, 1])
    status, run = status_of(paper.only_affine_and_reset, tmp_path)
    assert (status, wrong(run)) == ("failed", [3, 4])
    status, run = status_of(paper.adapts_to_corrupted_digits, tmp_path, networks=networks)
    assert (status, wrong(run)) == ("failed", [2])


def test_steps_that_do_nothing_and_a_reset_that_does_not_fail(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(adapt_online.Tent, "_descend", lambda self, loss: None)
        status, run = status_of(paper.only_affine_and_reset, tmp_path)
        assert (status, wrong(run)) == ("failed", [0, 4])
    monkeypatch.setattr(adapt_online.EATA, "reset", lambda self: None)
    status, run = status_of(paper.only_affine_and_reset, tmp_path)
    assert (status, wrong(run)) == ("failed", [1])


def test_running_statistics_in_place_of_the_batchs_fail(networks, monkeypatch, tmp_path):
    monkeypatch.setattr(adapt_online.BNAdapt, "step", lambda self, x: self.model(x).detach())
    status, run = status_of(paper.adapts_to_corrupted_digits, tmp_path, networks=networks)
    assert status == "failed"
    assert 0 in wrong(run)


def test_no_anchor_and_no_fisher_matrix_fail(networks, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(continual.FisherAnchor, "__call__", lambda self, model, time=0: 0 * self.distance(model))
        status, run = status_of(paper.anchor_holds, tmp_path, networks=networks)
        assert (status, wrong(run)) == ("failed", [0])

    def none(model, batches):
        return {n: torch.zeros_like(p) for n, p in adapt_online.affine_parameters(model).items()}

    monkeypatch.setattr(adapt_online, "pseudo_label_fisher", none)
    status, run = status_of(paper.anchor_holds, tmp_path, networks=networks, passes=1)
    assert (status, wrong(run)) == ("failed", [0, 1])


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
