import pytest
import torch

from gramian import data
from gramian.analysis import activation_sparsity, scaling_laws
from gramian.papers.sparsity import sparsing_law as paper
from support import status_of

needs_model = pytest.mark.skipif(not data.is_here("smollm2_135m"), reason="gramian data fetch smollm2_135m")


def test_an_error_that_forgets_the_weights_fails(monkeypatch, tmp_path):
    assert status_of(paper.error_of_a_layer_by_hand, tmp_path)[0] == "ok"

    def of_hidden_alone(hidden, down, threshold):
        small = hidden.abs() < threshold
        return (hidden * small).norm(dim=1) / hidden.norm(dim=1)

    monkeypatch.setattr(activation_sparsity, "cett", of_hidden_alone)
    status, run = status_of(paper.error_of_a_layer_by_hand, tmp_path)
    assert status == "failed"
    assert not run.checks[0].ok


@pytest.mark.parametrize("name", ["sparsity_at_error", "ppl_sparsity"])
def test_a_network_whose_neurons_all_stay_fails(name, monkeypatch, tmp_path):
    def nothing_dropped(*arguments, **more):
        return activation_sparsity.Sparsity(0.0, {"layers.0": 0.0}, 1.0, 0.0)

    monkeypatch.setattr(activation_sparsity, name, nothing_dropped)
    status, run = status_of(paper.zeros_of_a_relu_network_are_free, tmp_path)
    assert status == "failed"
    assert not all(c.ok for c in run.checks)


def test_a_fit_that_stays_at_its_start_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(scaling_laws, "_best", lambda amount, active, kind, starts: starts[0])
    status, run = status_of(paper.planted_laws_are_recovered, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False]


@needs_model
def test_dropping_neurons_whatever_they_add_fails_on_a_real_model(monkeypatch, tmp_path):
    def by_position(threshold, down):
        return lambda hidden: hidden * (torch.arange(hidden.shape[-1]) % 2)

    monkeypatch.setattr(activation_sparsity, "threshold_rule", by_position)
    status, run = status_of(paper.smollm2_can_drop_a_quarter, tmp_path, tokens=24, errors=(0.1,))
    assert status == "failed"
    assert not run.checks[0].ok


@needs_model
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    assert status_of(paper.experiment, tmp_path)[0] == "ok"
