import torch

from gramian.optim.parametrization import exponents, rules
from gramian.papers.scaling import mup_limits
from gramian.science import limits
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_one_answer_for_all_powers_fails(tmp_path, monkeypatch):
    for answer in ("feature", "kernel"):
        monkeypatch.setattr(exponents, "classify", lambda abc, answer=answer: answer)
        status, run = status_of(mup_limits.powers_are_classified, tmp_path / answer)
        assert status == "failed"
        assert any("classified" in c for c in false_claims(run))


def test_equal_rates_for_all_fail(tmp_path, monkeypatch):
    def flat(model, base, *, lr, **settings):
        return model, [{"params": list(model.parameters()), "lr": lr, "weight_decay": 0.0}]

    monkeypatch.setattr(rules, "mup", flat)
    status, run = status_of(mup_limits.groups_equal_the_package, tmp_path)
    assert status == "failed"
    assert any("package" in c for c in false_claims(run))


def test_the_kernel_limit_in_place_of_the_feature_limit_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "LinearTwoLayerLimit", limits.KernelLimit)
    status, run = status_of(mup_limits.finite_networks_approach_the_limit, tmp_path, widths=(64, 1024))
    assert status == "failed"
    assert any("power of the width" in c for c in false_claims(run))
    for part in (mup_limits.words_are_learned, mup_limits.digits_are_learned_to_learn):
        status, run = status_of(part, tmp_path / part.__name__, steps=10)
        assert status == "failed"
        assert false_claims(run)


def test_a_limit_that_stands_still_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(limits.LinearTwoLayerLimit, "_move", lambda self, change: self.state.add_(1e-9))
    status, run = status_of(mup_limits.finite_networks_approach_the_limit, tmp_path, widths=(64, 1024))
    assert status == "failed"
    assert any("power of the width" in c for c in false_claims(run))


def test_parametrizations_exchanged_fail(tmp_path, monkeypatch):
    torch.manual_seed(0)
    update, tangent = exponents.maximal_update, exponents.neural_tangent
    monkeypatch.setattr(exponents, "maximal_update", tangent)
    monkeypatch.setattr(exponents, "neural_tangent", update)
    status, run = status_of(mup_limits.features_move_or_stand, tmp_path, widths=(64, 256, 1024))
    assert status == "failed"
    assert len(false_claims(run)) == 2


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(mup_limits.experiment, tmp_path)
    assert status == "ok", false_claims(run)
