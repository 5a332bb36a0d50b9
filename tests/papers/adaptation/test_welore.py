import pytest

from gramian import data
from gramian.analysis import gradient_rank
from gramian.papers.adaptation import welore as paper
from gramian.surgery import welore
from support import status_of

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all-minilm-l6-v2")


def equal_ranks(spectra, shapes, reduction, min_ratio=0.5, solver="threshold"):
    ranks = {n: max(1, round((1 - reduction) * len(s))) for n, s in spectra.items()}
    return welore.Plan({n: welore.Component(r, len(spectra[n]), "LRC", True) for n, r in ranks.items()}, 0.1, reduction)


def failing(part, tmp_path, **options):
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_equal_ranks_in_place_of_the_threshold_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(welore, "plan_spectra", equal_ranks)
    assert failing(paper.planted_ranks_are_found, tmp_path) == [0, 1, 2]


@needs_minilm
def test_equal_ranks_fail_on_a_real_model(monkeypatch, tmp_path):
    monkeypatch.setattr(welore, "plan_spectra", equal_ranks)
    assert failing(paper.threshold_hits_the_target, tmp_path) == [1, 2, 3]


def test_a_swap_that_changes_nothing_fails(monkeypatch, tmp_path):
    class Nothing:
        def __enter__(self):
            return self

        def __exit__(self, *rest):
            return None

    monkeypatch.setattr(welore, "apply_plan", lambda model, planned: Nothing())
    assert failing(paper.planted_ranks_are_found, tmp_path) == [2]


def test_a_constant_stable_rank_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(gradient_rank, "stable_rank", lambda matrix: 1.0)
    assert failing(paper.gradients_are_measured, tmp_path) == [0]


@needs_minilm
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
