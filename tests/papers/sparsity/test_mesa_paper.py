import pytest
import torch

from gramian.papers.sparsity import mesa as paper
from gramian.surgery.mesa import functions, layers, store
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_memories_that_are_lost_fail(tmp_path, monkeypatch):
    assert status_of(paper.forward_is_exact, tmp_path)[0] == "ok"
    monkeypatch.setattr(functions, "restore", lambda codes, bits, shape, dtype: torch.zeros(shape, dtype=dtype))
    status, run = status_of(paper.forward_is_exact, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [True, False, False, True]


def test_a_swap_that_keeps_everything_exact_fails(tmp_path, monkeypatch):
    class Nothing:
        originals = {}

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr(layers, "mesa", lambda model, **settings: Nothing())
    status, run = status_of(paper.bits_and_gradients, tmp_path)
    assert status == "failed"
    assert sum("relative distance of the gradient" in claim for claim in false_claims(run)) == 3


def test_fewer_bits_than_asked_for_fail(tmp_path, monkeypatch):
    real = layers.mesa
    assert status_of(paper.bits_and_gradients, tmp_path)[0] == "ok"
    monkeypatch.setattr(layers, "mesa", lambda model, **settings: real(model, **{**settings, "bits": 4}))
    status, run = status_of(paper.bits_and_gradients, tmp_path)
    assert status == "failed"
    assert "8 bits: relative distance of the gradient" in false_claims(run)


def test_sixteen_bits_in_the_place_of_eight_fail(tmp_path, monkeypatch):
    real = layers.mesa
    monkeypatch.setattr(layers, "mesa", lambda model, **settings: real(model, **{**settings, "bits": 16}))
    status, run = status_of(paper.bytes_are_saved, tmp_path, batch=1)
    assert status == "failed"
    assert false_claims(run) == ["8 bits: bytes held over the exact ones"]


def test_one_range_for_all_heads_fails(tmp_path, monkeypatch):
    assert status_of(paper.heads_need_their_own_ranges, tmp_path)[0] == "ok"
    monkeypatch.setattr(store.Quantizer, "count", lambda self, x: 1)
    status, run = status_of(paper.heads_need_their_own_ranges, tmp_path)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, False]


@pytest.mark.slow
def test_the_quick_experiment_holds(tmp_path):
    assert status_of(paper.experiment, tmp_path)[0] == "ok"
