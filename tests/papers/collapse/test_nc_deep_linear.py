import torch

from gramian.analysis.geometry import collapse
from gramian.papers.collapse import nc_deep_linear
from gramian.science import deep_linear_collapse, unconstrained_features
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def fails(run, status, *parts):
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in false_claims(run)), (part, false_claims(run))


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(nc_deep_linear.experiment, tmp_path)
    assert status == "ok", false_claims(run)


def test_a_theory_in_which_every_class_is_learned_fails(tmp_path, monkeypatch):
    solve = deep_linear_collapse.deep_linear_solution

    def all_learned(counts, weight_decay, feature_decay):
        found = solve(counts, weight_decay, feature_decay)
        return found._replace(strengths=torch.ones_like(found.strengths), lengths=torch.ones_like(found.lengths))

    monkeypatch.setattr(deep_linear_collapse, "deep_linear_solution", all_learned)
    status, run = status_of(nc_deep_linear.deep_minimum_is_known, tmp_path)
    fails(run, status, "figures worked out", "outputs and lengths")
    status, run = status_of(nc_deep_linear.small_classes_vanish, tmp_path, problems=4)
    fails(run, status, "outputs", "do not vanish")
    status, run = status_of(nc_deep_linear.networks_follow, tmp_path, steps=30)
    fails(run, status, "lengths against the theory")


def test_a_theory_with_another_value_fails(tmp_path, monkeypatch):
    solve = deep_linear_collapse.deep_linear_solution
    monkeypatch.setattr(
        deep_linear_collapse, "deep_linear_solution", lambda *a: solve(*a)._replace(value=1.001 * solve(*a).value)
    )
    status, run = status_of(nc_deep_linear.small_classes_vanish, tmp_path, problems=4)
    fails(run, status, "closed form")


def test_a_descent_that_stays_where_it_began_fails(tmp_path, monkeypatch):
    minimize = unconstrained_features.UnconstrainedFeatures.minimize
    monkeypatch.setattr(
        unconstrained_features.UnconstrainedFeatures, "minimize",
        lambda self, generator=None: minimize(self, generator, steps=1, tolerance=1.0),
    )  # fmt: skip
    status, run = status_of(nc_deep_linear.deep_minimum_is_known, tmp_path)
    fails(run, status, "by descent against theory", "balanced", "right angles")
    status, run = status_of(nc_deep_linear.balanced_classes_form_a_simplex, tmp_path)
    fails(run, status, "cross-entropy", "within-class spread", "of norm 1")


def test_a_bias_that_is_left_out_fails(tmp_path, monkeypatch):
    objective = unconstrained_features.UnconstrainedFeatures._objective
    monkeypatch.setattr(
        unconstrained_features.UnconstrainedFeatures, "_objective", lambda self, w, h, b: objective(self, w, h, 0 * b)
    )
    status, run = status_of(nc_deep_linear.balanced_classes_form_a_simplex, tmp_path)
    fails(run, status, "squared error, bias")


def test_angles_that_are_always_right_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(collapse, "angle_deviation", lambda vectors, cosine=None: torch.zeros(()))
    status, run = status_of(nc_deep_linear.networks_follow, tmp_path, steps=30)
    fails(run, status, "before training", "lengths against")
