import dataclasses

from gramian.optim.parametrization import coordinates, rules, spectral_sgd
from gramian.papers.scaling import spectral_condition
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


class Standard(rules.Parametrization):
    """Whatever is asked for, the standard rule."""

    def rules(self, model):
        return [rules._standard(r.weight, self.optimizer, self.sigma) for r in super().rules(model)]


def test_the_standard_rule_in_place_of_the_spectral_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "Parametrization", Standard)
    status, run = status_of(spectral_condition.start_has_the_norm, tmp_path)
    assert status == "failed"
    assert any("largest" in c for c in false_claims(run))
    monkeypatch.setattr(spectral_condition, "WIDTHS", (64, 512))
    status, run = status_of(spectral_condition.updates_do_not_depend_on_width, tmp_path)
    assert status == "failed"
    assert any("spectral, SGD: power of the width in ‖ΔW‖₂" in c for c in false_claims(run))


def test_rates_of_another_power_are_not_maximal_update(tmp_path, monkeypatch):
    def wrong(weight, optimizer, sigma):
        rule = rules._spectral(weight, optimizer, sigma)
        return dataclasses.replace(rule, lr=rule.lr * weight.fan_in**0.5)

    monkeypatch.setitem(rules._RULES, "spectral", wrong)
    status, run = status_of(spectral_condition.rule_is_maximal_update, tmp_path)
    assert status == "failed"
    assert any("maximal update" in c for c in false_claims(run))


def test_plain_descent_in_place_of_the_normalized_fails(tmp_path, monkeypatch):
    class Plain(spectral_sgd.SpectralSGD):
        def _update(self, parameter, group):
            parameter.sub_(group["lr"] * parameter.grad)

    monkeypatch.setattr(spectral_sgd, "SpectralSGD", Plain)
    status, run = status_of(spectral_condition.update_has_the_norm, tmp_path)
    assert status == "failed"
    assert any("SpectralSGD" in c for c in false_claims(run))


def test_a_check_that_sees_no_training_fails(tmp_path, monkeypatch):
    def blind(make, widths, batch, loss, **settings):
        same = {name: (1.0,) * len(widths) for name in ("0.weight", "2.weight", "4.weight")}
        return coordinates.Coordinates(tuple(widths), same, same, same, same)

    monkeypatch.setattr(coordinates, "coordinate_check", blind)
    status, run = status_of(spectral_condition.updates_do_not_depend_on_width, tmp_path)
    assert status == "failed"
    assert any("standard" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(spectral_condition.experiment, tmp_path)
    assert status == "ok", false_claims(run)
