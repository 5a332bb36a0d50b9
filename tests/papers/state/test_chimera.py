"""Row 38's checks fail when the method is not there."""

import torch

from gramian.linalg.scan.grid import two_state
from gramian.nn.state import chimera as layers
from gramian.papers.state import chimera
from support import status_of


def false_claims(run):
    return " | ".join(c.claim for c in run.checks if not c.ok)


def stub(monkeypatch, change):
    """The scan with coefficients changed: (A1, A2, A3, A4, b1, b2) → the same."""
    scan = two_state.grid_scan

    def changed(*cells, **settings):
        return scan(*change(*cells[:6]), *cells[6:], **settings)

    monkeypatch.setattr(two_state, "grid_scan", changed)


def test_a_kernel_without_coupling_is_not_the_loop(tmp_path, monkeypatch):
    scan = two_state.grid_scan

    def cut(A1, A2, A3, A4, b1, b2, state=None, *, reverse_variates=False, form="auto"):
        A2 = 0 * A2 if form == "kernel" else A2
        return scan(A1, A2, A3, A4, b1, b2, state, reverse_variates=reverse_variates, form=form)

    monkeypatch.setattr(two_state, "grid_scan", cut)
    status, run = status_of(chimera.forms_agree, tmp_path)
    assert status == "failed"
    assert "kernel = anti-diagonals" in false_claims(run)


def test_states_that_do_not_cross_fail(tmp_path, monkeypatch):
    stub(monkeypatch, lambda A1, A2, A3, A4, b1, b2: (A1, 0 * A2, 0 * A3, 0 * A4, b1, b2))
    status, run = status_of(chimera.constant_case_is_a_convolution, tmp_path)
    assert status == "failed"
    assert "reaches other variates" in false_claims(run)
    status, run = status_of(chimera.time_flows_forward, tmp_path)
    assert status == "failed"
    assert "reaches every variate later" in false_claims(run)


def test_a_recurrence_that_forgets_at_once_fails(tmp_path, monkeypatch):
    stub(monkeypatch, lambda A1, A2, A3, A4, b1, b2: (0 * A1, A2, A3, A4, b1, b2))
    status, run = status_of(chimera.special_cases, tmp_path)
    assert status == "failed"
    assert "selective scan" in false_claims(run)
    assert "each by itself" in false_claims(run)


def test_a_layer_that_is_not_shift_invariant_fails(tmp_path, monkeypatch):
    def uneven(A1, A2, A3, A4, b1, b2):
        return A1, A2, A3, A4, b1 * torch.linspace(1, 2, b1.shape[2]).to(b1)[:, None], b2

    stub(monkeypatch, uneven)
    status, run = status_of(chimera.constant_case_is_a_convolution, tmp_path)
    assert status == "failed"
    assert "2-D convolution" in false_claims(run)


def test_a_step_that_is_not_a_hold_fails(tmp_path, monkeypatch):
    """Euler's gain in place of the exact one."""
    held = layers.held
    monkeypatch.setattr(layers, "held", lambda dt, r: (held(dt, r)[0], dt[..., None].expand(*dt.shape, r.shape[-1])))
    status, run = status_of(chimera.special_cases, tmp_path)
    assert status == "failed"
    assert "k steps" in false_claims(run)


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(chimera.experiment, tmp_path)
    assert status == "ok", false_claims(run)
