import torch

from gramian.analysis.geometry import fourier_neurons
from gramian.linalg.symmetry import irreps
from gramian.papers.scaling import margin_features
from gramian.science import max_margin
from support import status_of


def fails(run, status, *parts):
    claims = [c.claim for c in run.checks if not c.ok]
    assert status == "failed"
    for part in parts:
        assert any(part in claim for claim in claims), (part, claims)


def test_the_quick_experiment_is_ok(tmp_path):
    status, run = status_of(margin_features.experiment, tmp_path)
    assert status == "ok", [c.as_dict() for c in run.checks if not c.ok]


def random_in_place(p, dtype=torch.float64):
    return max_margin.PairNetwork.random(p, 4 * (p - 1), generator=torch.Generator().manual_seed(0)).to(dtype)


def test_random_networks_in_place_of_the_constructions_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(max_margin, "cyclic_network", random_in_place)
    monkeypatch.setattr(max_margin, "group_network", lambda matrices: random_in_place(len(matrices[0])))
    status, run = status_of(margin_features.constructions_reach_the_formulas, tmp_path)
    fails(run, status, "modular addition", "groups", "decimals")


def test_a_parity_of_the_wrong_bits_fails(tmp_path, monkeypatch):
    right = max_margin.parity_network
    monkeypatch.setattr(
        max_margin, "parity_network",
        lambda bits, k: max_margin.ParityNetwork(right(bits, k).first.flip(1), right(bits, k).readout, k),
    )  # fmt: skip
    status, run = status_of(margin_features.constructions_reach_the_formulas, tmp_path)
    fails(run, status, "parity: margin")


def test_representations_that_are_none_fail(tmp_path, monkeypatch):
    right = irreps.irreducible
    monkeypatch.setattr(irreps, "irreducible", lambda shape: right(shape).roll(1, 0))
    status, run = status_of(margin_features.constructions_reach_the_formulas, tmp_path)
    fails(run, status, "groups: margin")


def test_a_margin_without_its_norm_fails(tmp_path, monkeypatch):
    def plain(network, inputs, labels):
        logits = network(inputs)
        own = logits.gather(1, labels[:, None])[:, 0]
        return (own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)).min()

    monkeypatch.setattr(max_margin, "normalized_margin", plain)
    status, run = status_of(margin_features.constructions_reach_the_formulas, tmp_path)
    fails(run, status, "modular addition", "parity", "groups")
    status, run = status_of(margin_features.nothing_is_better, tmp_path, tries=20, climbs=20)
    fails(run, status, "gradient ascent")


def test_neurons_that_were_not_trained_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(margin_features.optim, "fit", lambda *args, **settings: None)
    status, run = status_of(margin_features.training_finds_fourier_features, tmp_path, p=7, neurons=64)
    fails(run, status, "margin over the largest", "one frequency", "median")
    status, run = status_of(margin_features.training_finds_representations, tmp_path)
    fails(run, status, "margin over the largest", "one irreducible")


def test_measures_that_say_the_same_of_every_neuron_fail(tmp_path, monkeypatch):
    def same(weights):
        count = len(weights)
        return fourier_neurons.Frequencies(torch.ones(count).long(), torch.ones(count), torch.ones(count))

    monkeypatch.setattr(fourier_neurons, "dominant_frequency", same)
    monkeypatch.setattr(margin_features.optim, "fit", lambda *args, **settings: None)
    status, run = status_of(margin_features.training_finds_fourier_features, tmp_path, p=7, neurons=64)
    fails(run, status, "frequencies in use", "median")
