"""Row 56's checks fail when the method is not there."""

import torch

from gramian.nn import sort
from gramian.optim.parametrization import definite
from gramian.papers.state import mamba_token_dynamics as row
from gramian.science import token_dynamics
from support import status_of


def test_tokens_that_do_not_move_fail(tmp_path, monkeypatch):
    def still(x0, S_B, S_C, S_D, a, T, times=None, **settings):
        seen = torch.tensor([0.0, float(T)]).double() if times is None else times
        return token_dynamics.Trajectory(seen, x0.expand(len(seen), *x0.shape), None)

    monkeypatch.setattr(token_dynamics, "simulate", still)
    for part in (row.tokens_vanish_like_a_root, row.tokens_grow_as_the_integrals_say):
        assert status_of(part, tmp_path / part.__name__)[0] == "failed"
    assert status_of(lambda run: row.parameters_tell_the_fate(run, draws=20), tmp_path)[0] == "failed"


def test_a_classifier_by_the_sign_of_mu_alone_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(token_dynamics, "classify", lambda mu, step, x0: "vanish" if mu < 0 else "blow up")
    status, _ = status_of(lambda run: row.parameters_tell_the_fate(run, draws=20), tmp_path)
    assert status == "failed"


def test_a_free_weight_fails(tmp_path, monkeypatch):
    class Free(torch.nn.Module):
        def __init__(self, rest, states, sign="positive"):
            super().__init__()

        def forward(self, weight):
            return weight

        def right_inverse(self, weight):
            return weight.clone()

    monkeypatch.setattr(definite, "DefiniteProjection", Free)
    assert status_of(row.the_sign_is_kept, tmp_path)[0] == "failed"


def test_a_mean_in_place_of_a_sort_fails(tmp_path, monkeypatch):
    def mean(scores, tau=1.0):
        return (
            torch.ones(*scores.shape, scores.shape[-1], dtype=scores.dtype) / scores.shape[-1] + 0 * scores[..., None]
        )

    monkeypatch.setattr(sort, "soft_permutation", mean)
    assert status_of(row.soft_sort_sorts, tmp_path)[0] == "failed"


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(row.experiment, tmp_path)
    assert status == "ok", [c.claim for c in run.checks if not c.ok]
