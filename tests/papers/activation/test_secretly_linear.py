import pytest
import torch

from gramian.analysis.geometry import linearity, linearity_profile
from gramian.objectives import layer_cosine
from gramian.papers.activation import secretly_linear as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_score_of_one_for_everything_fails(tmp_path, monkeypatch):
    for part in (paper.an_affine_map_scores_one, paper.chance_grows_with_the_width, paper.streaming_is_keeping):
        assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(linearity, "linearity", lambda x, y, **options: 1.0)
    for part in (paper.an_affine_map_scores_one, paper.chance_grows_with_the_width, paper.streaming_is_keeping):
        status, run = status_of(part, tmp_path)
        assert status == "failed"
        assert not run.checks[-1].ok or not run.checks[0].ok


def test_a_score_that_is_not_centred_fails(tmp_path, monkeypatch):
    def raw(x, y, *, residual=True, held_out=None, drop_first=0):
        left = y - x @ torch.linalg.lstsq(x, y).solution
        return float(1 - left.square().sum() / y.square().sum())

    monkeypatch.setattr(linearity, "linearity", raw)
    status, run = status_of(paper.an_affine_map_scores_one, tmp_path)
    assert status == "failed"
    assert any("a shift" in claim for claim in false_claims(run))


def test_a_profile_that_keeps_the_sinks_fails(tmp_path, monkeypatch):
    real = linearity_profile.linearity_profile

    def keeps(model, batches, blocks="layers.*", *, drop_first=0, **options):
        drops = (drop_first,) if isinstance(drop_first, int) else drop_first
        return [b for _ in drops for b in real(model, batches, blocks, drop_first=0, **options)]

    monkeypatch.setattr(linearity_profile, "linearity_profile", keeps)
    status, run = status_of(paper.streaming_is_keeping, tmp_path)
    assert status == "failed"
    assert "kept activations" in false_claims(run)[0]


def test_a_regularizer_of_nothing_fails(tmp_path, monkeypatch):
    assert status_of(paper.the_regularizer_counts_angles, tmp_path)[0] == "ok"
    monkeypatch.setattr(layer_cosine, "layer_cosine_loss", lambda states: states[0].new_zeros(()))
    assert status_of(paper.the_regularizer_counts_angles, tmp_path)[0] == "failed"


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
