import pytest
import torch

from gramian.analysis.geometry import matching
from gramian.papers.activation import convergent_learning as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def in_order(correlation, kind="assign"):
    units = torch.arange(min(correlation.shape))
    return matching.Matching(units, units, correlation[units, units])


def nothing(within, cross, alphas, **options):
    weights = torch.zeros(len(alphas), *cross.shape, dtype=torch.float64)
    return matching.SparsePrediction(torch.tensor(sorted(alphas)[::-1]), weights, weights[:, 0])


@pytest.mark.parametrize("part", [paper.permutation_is_recovered, paper.assignments_are_the_best])
def test_units_matched_in_their_order_fail(part, tmp_path, monkeypatch):
    assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(matching, "match_units", in_order)
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


def test_row_maxima_as_an_assignment_fail(tmp_path, monkeypatch):
    real = matching.match_units
    monkeypatch.setattr(matching, "match_units", lambda correlation, kind="assign": real(correlation, "semi"))
    status, run = status_of(paper.assignments_are_the_best, tmp_path)
    assert status == "failed"
    assert "all 720" in false_claims(run)[0]


def test_a_prediction_of_nothing_fails(tmp_path, monkeypatch):
    for part in (paper.the_lasso_needs_no_rows, paper.same_subspace_other_basis):
        assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(matching, "sparse_predict", nothing)
    monkeypatch.setattr(matching, "dense_predict", lambda within, cross: torch.zeros_like(cross))
    status, run = status_of(paper.the_lasso_needs_no_rows, tmp_path)
    assert status == "failed"
    assert "scikit-learn" in false_claims(run)[0]
    status, run = status_of(paper.same_subspace_other_basis, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False]


def test_groups_by_number_fail(tmp_path, monkeypatch):
    def by_number(correlation, k=None, *, seed=0):
        labels = torch.arange(len(correlation)) % (k or 2)
        return matching.CoClusters(labels, torch.linspace(0, 1, len(labels)), 2)

    assert status_of(paper.planted_groups, tmp_path)[0] == "ok"
    monkeypatch.setattr(matching, "cocluster", by_number)
    status, run = status_of(paper.planted_groups, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False]


def test_stubs_fail_on_trained_networks(tmp_path, monkeypatch):
    options = {"name": "dense networks", "layers": ("4",), "count": 2, "steps": 60}
    monkeypatch.setattr(matching, "match_units", in_order)
    status, run = status_of(paper.networks_converge, tmp_path, **options)
    assert status == "failed"
    assert "shuffled images" in false_claims(run)[0]
    monkeypatch.undo()
    monkeypatch.setattr(matching, "sparse_predict", nothing)
    status, run = status_of(paper.networks_converge, tmp_path, **options)
    assert status == "failed"
    assert any("above the best single" in claim for claim in false_claims(run))


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
