import pytest
import torch

from gramian.analysis.information import adaptive
from gramian.papers.activation import adaptive_mi as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_bins_of_equal_width_fail(tmp_path, monkeypatch):
    def wide(activations, bins=30, lowest=None):
        x = activations.double()
        cells = torch.bucketize(x, torch.linspace(-3, 3, bins + 1, dtype=x.dtype))
        return torch.unique(cells, dim=0, return_inverse=True)[1]

    for part in (paper.monotone_maps_change_nothing, paper.extremes):
        assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(adaptive, "ebab_codes", wide)
    status, run = status_of(paper.monotone_maps_change_nothing, tmp_path)
    assert status == "failed"
    assert "adaptive bins" in false_claims(run)[0]
    assert status_of(paper.extremes, tmp_path)[0] == "failed"


def test_one_code_for_all_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        adaptive, "ebab_codes", lambda x, bins=30, lowest=None: torch.zeros(len(x), dtype=torch.long)
    )  # fmt: skip
    assert status_of(paper.extremes, tmp_path)[0] == "failed"


@pytest.mark.parametrize("bound", ["upper", "lower"])
def test_one_bound_for_both_fails(bound, tmp_path, monkeypatch):
    real = adaptive.mi_kde

    def one(activations, labels, noise="adaptive", *_, **__):
        return real(activations, labels, noise, bound)

    assert status_of(paper.bounds_hold_the_truth, tmp_path)[0] == "ok"
    monkeypatch.setattr(adaptive, "mi_kde", one)
    status, run = status_of(paper.bounds_hold_the_truth, tmp_path)
    assert status == "failed"
    assert any("truth" in claim for claim in false_claims(run))


def test_information_of_nothing_fails_on_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptive, "mi_kde", lambda *a, **k: adaptive.Information(0.0, 0.0))
    status, run = status_of(paper.networks_learn_digits, tmp_path, names=("ReLU",), decays=(0.0,), rounds=1, steps=4)
    assert status == "failed"
    assert "about the input" in false_claims(run)[0]


def test_noise_that_does_not_adapt_fails(tmp_path, monkeypatch):
    real = adaptive.mi_kde
    assert status_of(paper.a_scale_that_changes_no_output, tmp_path, steps=5)[1].checks[1].ok
    monkeypatch.setattr(adaptive, "mi_kde", lambda t, y, noise=0.01, **k: real(t, y, 0.01))
    status, run = status_of(paper.a_scale_that_changes_no_output, tmp_path, steps=5)
    assert status == "failed"
    assert "adaptive estimators" in false_claims(run)[0]


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
