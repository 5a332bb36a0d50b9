"""Row 175's checks fail when the method is not there."""

import pytest
import torch

from gramian.linalg.scan import dense
from gramian.nn.state import bilinear
from gramian.papers.state import bilinear_rnn
from support import status_of


def false_claims(run):
    return " | ".join(c.claim for c in run.checks if not c.ok)


def still(A, state, b=None, *, normalize=False, form="auto"):
    """A state that nothing moves."""
    states = state[:, None].expand(A.shape[:-1]) + 0 * A.sum(-1)
    return states, states[:, -1]


def test_a_state_that_stands_still_runs_no_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "dense_scan", still)
    status, run = status_of(lambda run: bilinear_rnn.machines_run_exactly(run, machines=3), tmp_path)
    assert status == "failed"
    assert "full transitions" in false_claims(run)
    status, run = status_of(bilinear_rnn.forms_agree, tmp_path)
    assert status == "failed"
    assert "one matrix product after the other" in false_claims(run)


def test_factors_without_their_scales_fail(tmp_path, monkeypatch):
    scan = dense.factored_scan
    monkeypatch.setattr(dense, "factored_scan", lambda u, s, *a, **k: scan(u, torch.ones_like(s), *a, **k))
    status, run = status_of(lambda run: bilinear_rnn.machines_run_exactly(run, machines=3), tmp_path)
    assert status == "failed"
    assert "factored" in false_claims(run)


def test_a_norm_that_is_not_kept_fails(tmp_path, monkeypatch):
    scan = dense.dense_scan
    monkeypatch.setattr(dense, "dense_scan", lambda *a, normalize=False, **k: scan(*a, **k))
    status, run = status_of(bilinear_rnn.forms_agree, tmp_path)
    assert status == "failed"
    assert "norm 1" in false_claims(run)


def test_planes_that_do_not_turn_count_nothing(tmp_path, monkeypatch):
    scan = bilinear.diagonal_scan
    monkeypatch.setattr(bilinear, "diagonal_scan", lambda a, *r, **k: scan(torch.ones_like(a), *r, **k))
    status, run = status_of(bilinear_rnn.rotations_count, tmp_path)
    assert status == "failed"
    assert "one rotation" in false_claims(run)


def test_positive_factors_do_not_know_parity(tmp_path, monkeypatch):
    scan = dense.dense_scan
    monkeypatch.setattr(dense, "dense_scan", lambda A, *r, **k: scan(A.abs(), *r, **k))
    status, run = status_of(lambda run: bilinear_rnn.frozen_signs_know_parity(run, seeds=10), tmp_path)
    assert status == "failed"
    assert "frozen random signs" in false_claims(run)


@pytest.mark.parametrize("seed", [0])
def test_quick_experiment_is_ok(tmp_path, seed):
    status, run = status_of(bilinear_rnn.experiment, tmp_path, seed=seed)
    assert status == "ok", false_claims(run)
