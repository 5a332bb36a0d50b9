import numpy as np
import torch

from gramian.linalg import hippo
from gramian.papers.state import ptd
from support import status_of


def failed(run):
    return [check.claim for check in run.checks if not check.ok]


def test_quick_experiment_holds(tmp_path):
    status, run = status_of(ptd.experiment, tmp_path)
    assert status == "ok", failed(run)


def test_no_perturbation_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(hippo, "perturb_diagonalize", lambda A, *args, **options: hippo.diagonalize(A))
    status, run = status_of(ptd.plain_diagonalization_fails, tmp_path)
    assert status == "failed"
    assert any("diagonalized to rounding" in claim for claim in failed(run))


def test_a_random_perturbation_instead_of_an_optimized_one_fails(monkeypatch, tmp_path):
    real = hippo.perturb_diagonalize

    def random(A, eps=0.1, steps=100, candidates=5, **options):
        return real(A, eps, 0, candidates, **options)

    monkeypatch.setattr(hippo, "perturb_diagonalize", random)
    status, run = status_of(ptd.perturbation_conditions_eigenvectors, tmp_path)
    assert status == "failed"
    assert any("best of five" in claim for claim in failed(run))


def normal_part_only(A, *args, **options):
    """The baseline: drop the low-rank part, and call that the diagonalization."""
    eigenvalues, V, _, _ = hippo.legs_normal_plus_low_rank(len(A))
    w, basis = torch.cat([eigenvalues, eigenvalues.conj()]), torch.cat([V, V.conj()], 1)
    P = torch.sqrt(torch.arange(len(A), dtype=torch.float64) + 0.5)
    return hippo.Diagonalization(w, basis, torch.outer(P, P), {"start_condition": [1.0], "history": [0.0]})


def test_the_baseline_in_its_place_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(hippo, "perturb_diagonalize", normal_part_only)
    for part, words in (
        (ptd.perturbation_conditions_eigenvectors, "no larger than"),
        (ptd.transfer_functions, "at every frequency"),
        (ptd.discretized_transfer, "multiple"),
    ):
        status, run = status_of(part, tmp_path / part.__name__)
        assert status == "failed"
        assert any(words in claim for claim in failed(run)), words


def test_a_transfer_function_of_zeros_fails(monkeypatch, tmp_path):
    zeros = lambda A, B, C, points, *rest: torch.zeros(len(points), dtype=torch.complex128)  # noqa: E731
    monkeypatch.setattr(hippo, "transfer", zeros)
    for part in (ptd.transfer_functions, ptd.discretized_transfer):
        status, _ = status_of(part, tmp_path / part.__name__)
        assert status == "failed"


class Commonest:
    """The baseline in a classifier's place: always the commonest label."""

    history_ = {"seconds": [0.0]}

    def __init__(self, *args, **options):
        pass

    def fit(self, x, y, show_progress=None):
        labels, counts = np.unique(y, return_counts=True)
        self.label = labels[counts.argmax()]

    def score(self, x, y):
        return float(np.mean(y == self.label))


def test_a_classifier_of_the_commonest_class_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(ptd.state_space, "StateSpaceClassifier", Commonest)
    status, run = status_of(ptd.classifies_digits, tmp_path, quick=False, seeds=1)
    assert status == "failed"
    assert failed(run)
