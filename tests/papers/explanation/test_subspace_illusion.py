import pytest
import torch

from gramian.analysis.intervention import illusion, patching
from gramian.papers.explanation import subspace_illusion as paper
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


@pytest.mark.parametrize("stub", ["base", "source"])
def test_a_patch_of_nothing_or_of_all_fails(stub, tmp_path, monkeypatch):
    for part in (paper.three_units, paper.ranks_at_the_ends):
        assert status_of(part, tmp_path)[0] == "ok"

    def one(model, name, directions, base, source, positions=None, **options):
        return model(base if stub == "base" else source)

    monkeypatch.setattr(patching, "patch_subspace", one)
    for part in (paper.three_units, paper.ranks_at_the_ends):
        assert status_of(part, tmp_path)[0] == "failed"


def test_an_ablation_of_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(patching, "ablate", lambda model, name, directions, inputs, **options: model(inputs))
    status, run = status_of(paper.ranks_at_the_ends, tmp_path)
    assert status == "failed"
    assert "mean" in false_claims(run)[0]


def test_a_split_that_finds_nothing_unread_fails(tmp_path, monkeypatch):
    assert status_of(paper.planted_directions_are_told_apart, tmp_path, seeds=3)[0] == "ok"
    monkeypatch.setattr(illusion, "split_direction", lambda v, w, tolerance=1e-6: (torch.zeros_like(v), v))
    status, run = status_of(paper.planted_directions_are_told_apart, tmp_path, seeds=3)
    assert status == "failed"
    assert any("misses" in claim for claim in false_claims(run))


def test_a_split_that_finds_nothing_read_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(illusion, "split_direction", lambda v, w, tolerance=1e-6: (v, torch.zeros_like(v)))
    status, run = status_of(paper.planted_directions_are_told_apart, tmp_path, seeds=3)
    assert status == "failed"
    assert any("calls illusory" in claim for claim in false_claims(run))


def test_a_search_that_stays_where_it_starts_fails(tmp_path, monkeypatch):
    def start(model, name, base, source, loss, *, width, rank=1, steps=0, lr=0.0, positions=None, generator=None):
        return torch.linalg.qr(torch.randn(width, rank, generator=generator)).Q

    monkeypatch.setattr(illusion, "das", start)
    status, run = status_of(paper.a_search_finds_directions, tmp_path)
    assert status == "failed"
    assert "found, least" in false_claims(run)[0]


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", false_claims(run)
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
