import torch

from gramian.analysis import taylor
from gramian.optim import catapult
from gramian.papers.curvature import quadratic_models
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_a_linear_model_in_place_of_the_quadratic_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(taylor, "QuadraticModel", taylor.LinearizedModel)
    status, run = status_of(quadratic_models.model_is_the_taylor_polynomial, tmp_path)
    assert status == "failed"
    assert any("falls by 8" in c for c in false_claims(run))
    assert any("two-layer linear net" in c for c in false_claims(run))
    status, run = status_of(quadratic_models.three_phases, tmp_path)
    assert status == "failed"
    assert any("still converges" in c for c in false_claims(run))


def test_a_quadratic_model_in_place_of_the_linear_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(taylor, "LinearizedModel", taylor.QuadraticModel)
    status, run = status_of(quadratic_models.linear_model_diverges, tmp_path)
    assert status == "failed"
    assert any("linearized" in c for c in false_claims(run))


def test_a_recursion_with_a_frozen_kernel_fails(tmp_path, monkeypatch):
    def frozen(output, kernel, width, lr, steps):
        outputs = torch.tensor([output * (1 - lr * kernel) ** t for t in range(steps + 1)], dtype=torch.float64)
        return outputs, torch.full_like(outputs, kernel)

    monkeypatch.setattr(catapult, "two_layer_recursion", frozen)
    status, run = status_of(quadratic_models.descent_follows_the_recursion, tmp_path)
    assert status == "failed"
    assert any("recursion" in c for c in false_claims(run))


def test_descent_that_does_not_move_fails(tmp_path, monkeypatch):
    descend = catapult.run

    def still(model, inputs, targets, lr, steps, **settings):
        return descend(model, inputs, targets, 1e-12, 2)

    monkeypatch.setattr(catapult, "run", still)
    status, run = status_of(quadratic_models.three_phases, tmp_path)
    assert status == "failed"
    assert any("rises first" in c for c in false_claims(run))
    assert any("phase" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(quadratic_models.experiment, tmp_path)
    assert status == "ok", false_claims(run)
