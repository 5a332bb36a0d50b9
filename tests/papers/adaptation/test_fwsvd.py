import pytest
import torch

from gramian import data
from gramian.linalg.factor import lowrank
from gramian.nn import low_rank
from gramian.papers.adaptation import fwsvd as paper
from gramian.surgery import factorize
from support import status_of

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all-minilm-l6-v2")


def plain(matrix, row, column, rank, *, randomized=False, generator=None):
    return lowrank.truncated_svd(matrix, rank)


def failing(part, tmp_path, **options):
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_the_plain_svd_in_place_of_the_weighted_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(lowrank, "weighted_svd", plain)
    assert failing(paper.no_optimizer_does_better, tmp_path, runs=2) == [0]


def test_random_factors_fail(monkeypatch, tmp_path):
    def noise(matrix, row, column, rank, *, randomized=False, generator=None):
        generator = torch.Generator().manual_seed(0)
        shapes = ((matrix.shape[0], rank), (rank, matrix.shape[1]))
        return lowrank.Factors(*(torch.randn(s, generator=generator, dtype=matrix.dtype) for s in shapes))

    monkeypatch.setattr(lowrank, "weighted_svd", noise)
    assert failing(paper.equal_importance_is_plain, tmp_path) == [0]


def test_a_layer_that_merges_to_something_else_fails(monkeypatch, tmp_path):
    def empty(weight, bias):
        return torch.nn.Linear(weight.shape[1], weight.shape[0])

    monkeypatch.setattr(low_rank, "dense", empty)
    assert failing(paper.stored_and_merged, tmp_path) == [1]


@needs_minilm
def test_no_weights_on_a_real_layer_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(
        factorize, "fwsvd", lambda model, fisher, layers, kept_ranks: factorize.factorize(
            model, layers, kept_ranks=kept_ranks
        )
    )  # fmt: skip
    assert failing(paper.errors_change_places, tmp_path, count=3) == [0, 1]


@needs_minilm
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text", "model"}
