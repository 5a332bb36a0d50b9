import numpy as np
import torch

from gramian.analysis.kernels import infinite_width
from gramian.estimators.classification import infinite_depth
from gramian.papers.scaling import wide_deep_optimality
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(wide_deep_optimality.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def test_a_kernel_without_depth_fails(tmp_path, monkeypatch):
    right = infinite_width.log_kernel
    monkeypatch.setattr(infinite_width, "log_kernel", lambda s, dual, depth, kind="nngp": right(s, dual, 1, kind))
    status, run = status_of(wide_deep_optimality.limit_has_the_exponent, tmp_path)
    fails(run, status, "power of the distance")
    status, run = status_of(wide_deep_optimality.taxonomy_holds, tmp_path)
    fails(run, status, "like 1 nearest", "like Hilbert")
    status, run = status_of(wide_deep_optimality.risk_falls, tmp_path, sizes=(50, 600), seeds=1)
    fails(run, status, "deep, optimal")


def test_relu_in_place_of_the_optimal_activation_fails(tmp_path, monkeypatch):
    stub = (wide_deep_optimality._relu, infinite_width.ReluDual())
    monkeypatch.setattr(infinite_width, "optimal_activation", lambda dim: stub)
    status, run = status_of(wide_deep_optimality.limit_has_the_exponent, tmp_path)
    fails(run, status, "power of the distance", "α = −4")
    status, run = status_of(wide_deep_optimality.taxonomy_holds, tmp_path)
    fails(run, status, "kinds of", "like Hilbert")


def test_a_dual_of_another_activation_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(infinite_width.ReluDual, "log_value", lambda self, t: t)
    status, run = status_of(wide_deep_optimality.duals_are_those_of_wide_layers, tmp_path, width=20_000)
    fails(run, status, "random neurons")
    monkeypatch.undo()
    monkeypatch.setattr(infinite_width.HermiteDual, "growth", lambda self, t: torch.ones_like(t))
    status, run = status_of(wide_deep_optimality.duals_are_those_of_wide_layers, tmp_path, width=20_000)
    fails(run, status, "random neurons")


def test_a_classifier_that_always_says_the_same_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(infinite_depth._KernelVote, "predict", lambda self, X: np.zeros(len(X), dtype=int))
    status, run = status_of(wide_deep_optimality.risk_falls, tmp_path, sizes=(50, 600), seeds=1)
    fails(run, status, "deep, optimal", "α = d: risk above")
