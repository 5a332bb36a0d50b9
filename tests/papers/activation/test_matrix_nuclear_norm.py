import pytest
import torch

from gramian import data
from gramian.analysis import llm_eval
from gramian.linalg.spectral import spectra
from gramian.papers.activation import matrix_nuclear_norm as paper
from support import status_of

MODELS = ("smollm2_135m", "all_minilm_l6_v2")
needs_models = pytest.mark.skipif(not all(map(data.is_here, MODELS)), reason=f"gramian data fetch {' '.join(MODELS)}")


def zeros(x, method="svd", top=None):
    return x.new_zeros(())


@pytest.mark.parametrize(
    "part", [paper.exact_on_orthogonal_columns, paper.bound_from_above, paper.overshoot_along_a_dense_direction]
)
def test_a_stub_of_the_norm_fails(part, monkeypatch, tmp_path):
    assert status_of(part, tmp_path)[0] == "ok"
    monkeypatch.setattr(
        spectra, "nuclear_norm", zeros if part is not paper.exact_on_orthogonal_columns else largest_value
    )
    status, run = status_of(part, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False]


def largest_value(x, method="svd", top=None):
    return torch.linalg.svdvals(x)[0] * (2 if method == "l12" else 1)


def test_a_stub_of_the_entropy_fails(monkeypatch, tmp_path):
    assert status_of(paper.entropy_at_its_extremes, tmp_path)[0] == "ok"
    monkeypatch.setattr(spectra, "matrix_entropy", zeros)
    status, run = status_of(paper.entropy_at_its_extremes, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, True]


@needs_models
def test_a_stub_of_the_score_fails_on_a_real_model(monkeypatch, tmp_path):
    real = llm_eval.score_text

    def same_for_every_text(model, ids, layers=(-1,)):
        constant = torch.linspace(0.5, 0.1, len(real(model, ids[:8], layers).svd))
        return llm_eval.TextScores(constant, constant, constant)

    monkeypatch.setattr(llm_eval, "score_text", same_for_every_text)
    options = {"name": "all-minilm-l6-v2", "passages": 2, "tokens": 24}
    status, run = status_of(paper.prose_above_repetition, tmp_path, **options)
    assert status == "failed"
    assert not run.checks[0].ok


@needs_models
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path, passages=2, tokens=48)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
