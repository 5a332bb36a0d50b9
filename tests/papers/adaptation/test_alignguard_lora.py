import torch

from gramian.objectives import alignguard
from gramian.papers.adaptation import alignguard_lora as paper
from support import status_of


def wrong(run):
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_a_random_basis_and_no_split_fail(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(alignguard, "split", lambda delta, basis: (torch.zeros_like(delta), delta))
        status, run = status_of(paper.decomposition_is_exact, tmp_path)
        assert status == "failed"
        assert {0, 2, 6} <= set(wrong(run))

    def rotated(fisher, m):
        values, vectors = torch.linalg.eigh(fisher)
        return values[-m:], vectors[:, :m]

    monkeypatch.setattr(alignguard, "top_directions", rotated)
    status, run = status_of(paper.decomposition_is_exact, tmp_path)
    assert status == "failed"
    assert {0, 6} <= set(wrong(run))


def test_plain_inner_products_in_place_of_collisions_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(alignguard, "geodesic_overlap", lambda a, b, eta: (eta * a * b).sum())
    status, run = status_of(paper.decomposition_is_exact, tmp_path)
    assert status == "failed"
    assert {3, 6} <= set(wrong(run))


def test_no_penalty_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(
        alignguard.AlignGuardPenalty, "__call__", lambda self, deltas: 0 * sum(d.sum() for d in deltas.values())
    )
    status, run = status_of(paper.drift_on_digits, tmp_path)
    assert (status, wrong(run)) == ("failed", [0])


def test_a_penalty_that_holds_everything_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(
        alignguard.AlignGuardPenalty,
        "__call__",
        lambda self, deltas: 1e3 * sum(d.square().sum() for d in deltas.values()),
    )
    status, run = status_of(paper.drift_on_digits, tmp_path)
    assert (status, wrong(run)) == ("failed", [2])


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
