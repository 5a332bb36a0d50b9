import copy

from torch import nn

from gramian.nn import hyper
from gramian.papers.adaptation import mip_hypernet
from support import status_of


def false_claims(run):
    return [c.claim for c in run.checks if not c.ok]


def test_an_encoding_that_does_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        hyper, "encode", lambda g, mode="cos|sin": g if mode is None else g.repeat(*[1] * (g.ndim - 1), 2)
    )
    status, run = status_of(mip_hypernet.scale_no_longer_follows_the_input, tmp_path, nets=2)
    assert status == "failed"
    assert any("encoding alone" in c for c in false_claims(run))
    status, run = status_of(mip_hypernet.encoding_has_constant_norm, tmp_path)
    assert status == "failed"


def test_a_cured_network_in_place_of_the_default_fails(tmp_path, monkeypatch):
    build = hyper.HyperNet

    def cured(*arguments, encoding="cos|sin", residual=True, **settings):
        return build(*arguments, **settings)

    monkeypatch.setattr(hyper, "HyperNet", cured)
    status, run = status_of(mip_hypernet.scale_no_longer_follows_the_input, tmp_path, nets=2)
    assert status == "failed"
    assert any("default" in c for c in false_claims(run))


def test_a_network_without_independent_weights_fails(tmp_path, monkeypatch):
    def forget(self, weights):
        nn.init.zeros_(self.layers[-1].bias)

    monkeypatch.setattr(hyper.HyperNet, "set_independent", forget)
    status, run = status_of(mip_hypernet.independent_weights_are_the_network, tmp_path)
    assert status == "failed"
    assert any("turned into" in c for c in false_claims(run))
    assert any("ordinary network" in c for c in false_claims(run))


def test_a_network_that_ignores_its_prediction_fails(tmp_path, monkeypatch):
    class Deaf(hyper.Hypernetized):
        def __init__(self, module, hypernet):
            super().__init__(module, hypernet)
            self.kept = copy.deepcopy(module)

        def forward(self, *inputs, **gamma):
            return self.kept(*inputs)

    monkeypatch.setattr(hyper, "Hypernetized", Deaf)
    status, run = status_of(mip_hypernet.independent_weights_are_the_network, tmp_path)
    assert status == "failed"
    assert any("γ matters" in c for c in false_claims(run))


def test_quick_experiment_is_ok(tmp_path):
    status, run = status_of(mip_hypernet.experiment, tmp_path)
    assert status == "ok", false_claims(run)
