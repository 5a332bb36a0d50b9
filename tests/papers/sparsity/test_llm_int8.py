import pytest
import torch

from gramian import data
from gramian.analysis import outliers
from gramian.linalg.factor.quant import absmax
from gramian.papers.sparsity import llm_int8 as paper
from gramian.surgery.quantize import int8
from support import status_of

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all-minilm-l6-v2")


def no_product(a, b, how="auto"):
    return torch.zeros(len(a), len(b), dtype=torch.int32)


def pure(x, codes, scales, threshold=6.0, weight=None):
    return real(x, codes, scales, float("inf"))


def in_floats(x, codes, scales, threshold=6.0, weight=None):
    return x @ absmax.dequantize_rows(codes, scales).T


real = absmax.mixed_matmul


def failing(part, tmp_path, **options):
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_a_stub_of_the_integer_product_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(absmax, "int8_matmul", no_product)
    assert failing(paper.products_are_exact, tmp_path) == [0]


def test_leaving_out_the_decomposition_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(absmax, "mixed_matmul", pure)
    assert failing(paper.outliers_spoil_scales, tmp_path) == [0, 1, 3]


def test_floats_in_place_of_int8_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(absmax, "mixed_matmul", in_floats)
    assert 2 in failing(paper.outliers_spoil_scales, tmp_path)
    assert failing(paper.thresholds_at_their_ends, tmp_path / "ends") == [0, 1]
    assert failing(paper.error_by_threshold, tmp_path / "by") == [0]


def test_a_profile_of_nothing_fails(monkeypatch, tmp_path):
    def nothing(model, batches, layers="*", threshold=6.0):
        return outliers.OutlierProfile({"a": torch.zeros(32)}, {"a": torch.zeros(32)}, 6.0)

    monkeypatch.setattr(outliers, "outlier_profile", nothing)
    assert failing(paper.planted_outliers_are_found, tmp_path) == [0, 1]


@needs_minilm
def test_a_swap_that_ignores_the_threshold_fails(monkeypatch, tmp_path):
    swap = int8.to_int8
    monkeypatch.setattr(int8, "to_int8", lambda model, layers="*", threshold=6.0, keep_float=False: swap(model, layers))
    assert failing(paper.embeddings_stay, tmp_path, count=4) == [1]


@needs_minilm
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path, count=4)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text", "model"}
