import copy

import pytest
import torch
from torch import nn

from gramian.surgery.adapters import transfer
from gramian.surgery.adapters.apply import attach_lora


def test_the_digits_are_split_standardised_and_turned():
    digits = transfer.load_digits()
    assert len(digits.train) == 1438
    assert len(digits.test) == 359
    assert digits.train.mean() == pytest.approx(0, abs=1e-5)
    turned = digits.turned()
    assert torch.equal(turned.train.rot90(-1, (1, 2)), digits.train)
    assert torch.equal(turned.test_labels, digits.test_labels)


def test_networks_start_from_their_seed():
    for make in (transfer.mlp, transfer.cnn):
        first, second, other = make(0), make(0), make(1)
        x = torch.randn(3, 8, 8)
        assert first(x).shape == (3, 10)
        assert torch.equal(first(x), second(x))
        assert not torch.equal(first(x), other(x))


def test_training_learns_and_adapting_trains_only_the_adapters():
    digits = transfer.load_digits()
    net = transfer.mlp(0, (64, 32, 10))
    losses = transfer.train(net, digits.train, digits.train_labels, steps=60, lr=1e-2, seed=0)
    assert len(losses) == 60
    assert transfer.accuracy(net, digits.test, digits.test_labels) > 0.85
    base = copy.deepcopy(net)
    outcome = transfer.adapt(net, digits, lambda m: attach_lora(m, "*", rank=4), steps=60, lr=2e-2, seed=0)
    assert outcome.trained == 4 * (64 + 32 + 32 + 10)
    assert outcome.new > transfer.accuracy(base, digits.turned().test, digits.test_labels) + 0.2
    assert outcome.early == sum(outcome.losses[:50]) / 50
    assert torch.equal(net[1].base.weight, base[1].weight)
    assert isinstance(base[1], nn.Linear)
