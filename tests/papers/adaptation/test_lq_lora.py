import pytest
import torch

from gramian import data
from gramian.linalg.factor import lowrank
from gramian.linalg.factor.quant import normal_float
from gramian.papers.adaptation import lq_lora as paper
from gramian.surgery import allocate
from gramian.surgery.quantize import lq_lora
from support import status_of

needs_minilm = pytest.mark.skipif(not data.is_here("all_minilm_l6_v2"), reason="gramian data fetch all-minilm-l6-v2")


@pytest.fixture(autouse=True)
def fresh_codebooks():
    """Codebooks are cached: those of a stub must not outlive its test."""
    normal_float._codebook.cache_clear()
    yield
    normal_float._codebook.cache_clear()


def failing(part, tmp_path, **options):
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    return [i for i, c in enumerate(run.checks) if not c.ok]


def test_evenly_spaced_codes_fail(monkeypatch, tmp_path):
    monkeypatch.setattr(normal_float, "normal_float", lambda bits: torch.linspace(-1, 1, 2**bits))
    assert failing(paper.codebook_and_bytes, tmp_path) == [0]


def test_an_allocation_of_the_lightest_fails(monkeypatch, tmp_path):
    def lightest(cost, weight, budget, solver="milp"):
        choice = tuple(int(c) for c in weight.argmin(1))
        return allocate.Allocation(choice, 0.0, 0.0, budget, 0.0, 0.0)

    monkeypatch.setattr(allocate, "allocate", lightest)
    assert failing(paper.allocation_is_exact, tmp_path) == [0]


def test_ignoring_the_fisher_matrix_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(
        lowrank, "weighted_svd",
        lambda matrix, row, column, rank, *, randomized=False, generator=None: lowrank.truncated_svd(matrix, rank),
    )  # fmt: skip
    assert failing(paper.weighting_is_optimal, tmp_path, runs=1) == [0, 1]


@needs_minilm
def test_factors_without_alternation_fail(monkeypatch, tmp_path):
    real = lq_lora.lq_decompose

    def once(weight, rank, fmt, fisher=None, *, generator=None):
        found = real(weight, rank, fmt, fisher, max_iterations=1, generator=generator)
        plain = normal_float.round_blocks(weight, fmt)
        up, down = torch.zeros_like(found.up), torch.zeros_like(found.down)
        return lq_lora.Decomposition(plain, weight, up, down, 0.0, ())

    monkeypatch.setattr(lq_lora, "lq_decompose", once)
    assert failing(paper.decomposition_beats_its_parts, tmp_path, matrices=2, widths=(3, 2)) == [0, 1, 2, 3]


@needs_minilm
@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text", "model"}
