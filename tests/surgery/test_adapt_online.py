import copy
import math

import pytest
import torch
from torch import nn

from gramian.optim.continual import FisherAnchor
from gramian.surgery import adapt_online
from gramian.surgery.adapt_online import EATA, BNAdapt, Tent


def network(seed=0, classes=4):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.LayerNorm(8), nn.Linear(8, classes)
    )
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g)
    model[1].running_mean = torch.randn(8, generator=g)
    model[1].running_var = torch.rand(8, generator=g) + 0.5
    return model.eval(), torch.randn(20, 6, generator=g)


def by_hand(model, x):
    """Logits with batch statistics, computed apart."""
    h = model[0](x)
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt() * model[1].weight + model[1].bias
    return model[5](model[4](h.relu()))


def test_selection_weights_and_mean_are_those_of_a_loop():
    g = torch.Generator().manual_seed(0)
    mean, e0, eps = None, 0.8, 0.7
    want = None
    for _ in range(4):
        logits = 3 * torch.randn(30, 5, generator=g)
        found = adapt_online.select(logits, mean, e0, eps)
        taken = []
        for i, row in enumerate(logits.double()):
            p = torch.exp(row) / torch.exp(row).sum()
            uncertainty = -sum(float(q) * math.log(float(q)) for q in p)
            cosine = 0.0 if want is None else float(p @ want / (p.norm() * want.norm()))
            keep = uncertainty < e0 and abs(cosine) < eps
            assert bool(found.reliable[i]) == (uncertainty < e0)
            assert bool(found.kept[i]) == keep
            assert float(found.weights[i]) == pytest.approx(math.exp(e0 - uncertainty) if keep else 0.0, rel=1e-5)
            if keep:
                taken.append(p)
        assert 0 < len(taken) < 30
        new = torch.stack(taken).mean(0)
        want = new if want is None else 0.9 * want + 0.1 * new
        torch.testing.assert_close(found.mean.double(), want, rtol=1e-5, atol=1e-7)
        mean = found.mean


def test_nothing_kept_leaves_the_mean():
    mean = torch.tensor([1.0, 0.0])
    found = adapt_online.select(torch.zeros(3, 2), mean, 0.1, 0.5)
    assert found.mean is mean
    assert not found.kept.any()
    assert adapt_online.select(torch.zeros(3, 2), None, 0.1, 0.5).mean is None


def test_a_step_is_that_of_plain_autograd():
    model, x = network()
    fisher = {n: torch.rand(p.shape) for n, p in adapt_online.affine_parameters(model).items()}
    other = copy.deepcopy(model)
    adapter = EATA(model, fisher, 0.9, 0.6, 3.0, lr=0.1, momentum=0.5)
    start, velocity, mean = {n: p.detach().clone() for n, p in other.named_parameters()}, {}, None
    for _ in range(3):
        logits = by_hand(other, x)
        torch.testing.assert_close(adapter.step(x), logits.detach(), rtol=1e-4, atol=1e-4)
        chosen = adapt_online.select(logits.detach(), mean, 0.9, 0.6)
        mean = chosen.mean
        p = logits.softmax(-1)
        entropies = -(p * p.log()).sum(-1)[chosen.kept]
        if not len(entropies):
            continue
        loss = ((0.9 - entropies.detach()).exp() * entropies).mean()
        named = dict(other.named_parameters())
        loss = loss + 3.0 * sum((fisher[n] * (named[n] - start[n]) ** 2).sum() for n in fisher)
        for n, gradient in zip(fisher, torch.autograd.grad(loss, [named[n] for n in fisher]), strict=True):
            velocity[n] = gradient + 0.5 * velocity.get(n, 0.0)
            named[n].data -= 0.1 * velocity[n]
    for (n, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=n)
    assert adapter.backwards > 0
    assert not model[1].weight.equal(start["1.weight"])


@pytest.mark.parametrize("make", [BNAdapt, lambda m: Tent(m, lr=0.1), lambda m: EATA(m, None, 0.9, 0.6, lr=0.1)])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found_and_reset_restores_the_bits(make, training):
    model, x = network()
    model.train(training)
    model[5].weight.requires_grad_(False)
    model[1].weight.grad = torch.ones(8)
    state = copy.deepcopy(model.state_dict())
    adapter = make(model)
    first = adapter.step(x)
    assert not first.requires_grad
    changed = {n for n, t in model.state_dict().items() if not t.equal(state[n])}
    assert changed == (set() if type(adapter) is BNAdapt else {"1.weight", "1.bias", "4.weight", "4.bias"})
    assert all(m.training == training for m in model.modules())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["5.weight"]
    assert model[1].weight.grad.equal(torch.ones(8))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "1.weight")
    adapter.step(x)
    adapter.reset()
    assert all(t.equal(state[n]) for n, t in model.state_dict().items())
    assert adapter.seen == 0
    assert adapter.step(x).equal(first)


def test_a_confident_batch_twice_brings_no_second_backward():
    model, _ = network()
    model[5].weight.data.zero_()
    model[5].bias.data = torch.tensor([9.0, 0.0, 0.0, 0.0])
    model[5].weight.data[0, 0] = 0.1
    adapter = EATA(model, None, eps=0.6, lr=0.1)
    x = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    adapter.step(x)
    assert (adapter.backward_samples, adapter.backwards) == (10, 1)
    weights = model[1].weight.detach().clone()
    adapter.step(x)
    assert (adapter.backward_samples, adapter.backwards, adapter.reliable) == (10, 1, 20)
    assert int(adapter.last.kept.sum()) == 0
    assert model[1].weight.equal(weights)
    adapter.reset()
    assert adapter.mean is None
    assert adapter.last is None


def test_the_default_margin_and_another_optimizer():
    model, x = network()
    adapter = EATA(model, eps=1.0, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    adapter.step(x)
    assert adapter.last.reliable.equal(adapt_online.entropy(by_hand(network()[0], x)) < 0.4 * math.log(4))
    assert float((model[1].weight - network()[0][1].weight).detach().abs().max()) == pytest.approx(0.01, rel=1e-2)


def test_pseudo_label_fisher_against_a_loop():
    model, x = network()
    model.requires_grad_(False)
    fisher = adapt_online.pseudo_label_fisher(model, x.split(8))
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    affine = adapt_online.affine_parameters(model)
    want = {n: torch.zeros_like(p) for n, p in affine.items()}
    for row in x:
        logits = model(row[None]).log_softmax(-1)
        for n, gradient in zip(affine, torch.autograd.grad(logits.max(), list(affine.values())), strict=True):
            want[n] += gradient.square() / len(x)
    assert set(fisher) == set(want) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    for n in want:
        torch.testing.assert_close(fisher[n], want[n], rtol=1e-3, atol=1e-6)


def test_the_anchor_holds_the_important_weights():
    drift = []
    for beta in (0.0, 100.0):
        model, x = network()
        fisher = {n: torch.ones_like(p) for n, p in adapt_online.affine_parameters(model).items()}
        anchor = FisherAnchor.of(model, fisher)
        adapter = EATA(model, fisher, 2.0, 1.0, beta, lr=1e-3)
        for _ in range(30):
            adapter.step(x)
        drift.append(float(anchor.distance(model).detach()))
    assert drift[1] < drift[0] / 3


def test_layer_norms_alone_adapt_without_batch_statistics():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    before = model(x).detach()
    adapter = Tent(model, lr=0.1)
    torch.testing.assert_close(adapter.step(x), before)
    assert adapt_online.entropy(model(x).detach()) < adapt_online.entropy(before)
    with pytest.raises(ValueError, match="no batch norm"):
        BNAdapt(model)


def test_bad_arguments():
    model, x = network()
    plain = nn.Linear(3, 2)
    for make in (Tent, EATA):
        with pytest.raises(ValueError, match="no norm layer"):
            make(plain)
    with pytest.raises(ValueError, match="no batch norm"):
        BNAdapt(plain)
    for options, message in (
        ({"e0": 0.0}, "positive"), ({"e0": -1}, "positive"), ({"eps": 0}, "cosine"), ({"eps": 1.5}, "cosine"),
        ({"beta": -1.0}, "negative"), ({"fisher": {"0.weight": torch.ones(8, 6)}}, "0.weight"),
        ({"fisher": {"1.weight": torch.ones(3)}}, "shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            EATA(model, **options)
    for make in (BNAdapt, Tent, EATA):
        with pytest.raises(ValueError, match="at least 2 samples"):
            make(model).step(x[:1])
        one = network(classes=1)[0]
        with pytest.raises(ValueError, match="2 or more classes"):
            make(one).step(x)
        assert one[1].running_mean is not None
    with pytest.raises(ValueError, match="training mode"):
        adapt_online.pseudo_label_fisher(model.train(), [x])
