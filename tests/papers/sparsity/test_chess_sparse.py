import pytest
import torch

from gramian import data
from gramian.linalg import gathered
from gramian.papers.sparsity import chess_sparse as paper
from gramian.surgery import activation_sparsity
from support import status_of

needs_model = pytest.mark.skipif(not data.is_here("smollm2_135m"), reason="gramian data fetch smollm2_135m")


def test_one_threshold_in_place_of_one_a_channel_fails(monkeypatch, tmp_path):
    assert status_of(paper.thresholds_close_what_they_should, tmp_path)[0] == "ok"
    monkeypatch.setattr(activation_sparsity, "channel_thresholds", activation_sparsity.layer_threshold)
    status, run = status_of(paper.thresholds_close_what_they_should, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False, True]


def test_kernels_that_take_every_row_fail(monkeypatch, tmp_path):
    assert status_of(paper.kernels_skip_and_agree, tmp_path)[0] == "ok"
    monkeypatch.setattr(gathered, "summed_product", lambda weights, matrix: weights @ matrix)
    status, run = status_of(paper.kernels_skip_and_agree, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False]


def test_a_surgery_that_closes_nothing_fails(monkeypatch, tmp_path):
    real = activation_sparsity.chess
    monkeypatch.setattr(
        activation_sparsity, "chess", lambda model, texts, sparsity, attention=0.0: real(model, texts, 0.0)
    )
    status, run = status_of(paper.zero_sparsity_is_the_dense_model, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, True, True, False, True]


@needs_model
def test_cats_in_the_place_of_chess_fails_on_a_real_model(monkeypatch, tmp_path):
    monkeypatch.setattr(activation_sparsity, "chess", activation_sparsity.cats)
    options = {"tokens": 24, "shares": (0.5,), "bounds": {}}
    status, run = status_of(paper.channel_wise_beats_one_threshold, tmp_path, **options)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False]


@needs_model
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    torch.manual_seed(0)
    assert status_of(paper.experiment, tmp_path)[0] == "ok"
