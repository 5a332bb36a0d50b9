import pytest
import torch

from gramian.linalg.factor import window as windows
from gramian.optim import mfac
from gramian.papers.curvature import m_fac as paper
from gramian.surgery.prune import obs
from support import status_of


class OnlyDamped(windows.WindowInverse):
    """Forgets the gradients: the inverse of the damping alone."""

    def solve(self, x):
        return x / self.damp

    def solve_newest(self):
        return self.rows[self.newest] / self.damp

    def diag(self):
        return torch.full_like(self.rows[0], 1 / self.damp)

    def element(self, i, j):
        return self.rows.new_tensor(float(i == j) / self.damp)


class Frozen(windows.WindowInverse):
    """Never lets an old gradient go."""

    def push(self, vector):
        return self if self.held == len(self.rows) else super().push(vector)


class Wasteful(windows.WindowInverse):
    """Keeps a second copy of the buffer."""

    def push(self, vector):
        self.copy = self.rows.clone()
        return super().push(vector)


@pytest.mark.parametrize(
    ("part", "stub", "wrong"),
    [
        (paper.inverse_is_exact, OnlyDamped, [0, 1, 2, 3]),
        (paper.window_slides, Frozen, [0, 1]),
        (paper.memory_is_one_buffer, Wasteful, [0]),
        (paper.memory_is_one_buffer, OnlyDamped, [1]),
    ],
)
def test_a_stub_of_the_window_fails(part, stub, wrong, monkeypatch, tmp_path):
    options = {"size": 20_000} if part is paper.memory_is_one_buffer else {}
    assert status_of(part, tmp_path, **options)[0] == "ok"
    monkeypatch.setattr(windows, "WindowInverse", stub)
    status, run = status_of(part, tmp_path, **options)
    assert status == "failed"
    assert [i for i, c in enumerate(run.checks) if not c.ok] == wrong


def test_plain_descent_fails(monkeypatch, tmp_path):
    assert status_of(paper.optimizer_follows_the_dense_inverse, tmp_path)[0] == "ok"
    monkeypatch.setattr(mfac, "MFAC", lambda p, lr, **_: torch.optim.SGD(p, lr=lr))
    assert status_of(paper.optimizer_follows_the_dense_inverse, tmp_path)[0] == "failed"


def test_magnitude_in_the_surgeons_place_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(obs, "obs_prune", lambda m, g, s, r, damp: obs.magnitude_prune(m, s))
    status, run = status_of(paper.prunes_better_than_magnitude, tmp_path, gradients=8, rounds=1)
    assert status == "failed"
    assert [c.ok for c in run.checks] == [False, True]


def test_the_quick_experiment_holds(tmp_path):
    status, run = status_of(paper.experiment, tmp_path)
    assert status == "ok", [c for c in run.checks if not c.ok]
    assert {p["type"] for p in run.parts} == {"figure", "table", "text"}
