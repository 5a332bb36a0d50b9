import math

import pytest
import torch
from torch import nn

from gramian.optim import autolr
from gramian.optim.autolr import LanczosLR, effective_batch, hessian_noise, max_learning_rate


def half_square(module, x, y):
    return 0.5 * (module(x) - y).square().sum(-1).mean()


def regression(samples=400, features=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=g, dtype=torch.float64)
    x = x * torch.tensor([3.0] + [1.0] * (features - 1), dtype=torch.float64)
    return nn.Linear(features, 1, bias=False).double(), x, torch.randn(samples, 1, generator=g, dtype=torch.float64)


def test_noise_of_a_linear_regression_is_its_closed_form():
    module, x, y = regression()
    second = x.mT @ x / len(x)
    values, vectors = torch.linalg.eigh(second)
    u = vectors[:, -1]
    per_sample = (x * (x @ u)[:, None] - second @ u).square().sum(1).mean() * len(x) / (len(x) - 1)
    found = hessian_noise(module, half_square, (x, y), draws=400, generator=torch.Generator().manual_seed(1))
    assert abs(found.top / float(values[-1]) - 1) < 1e-6
    assert abs(found.variance / float(per_sample) - 1) < 0.15
    assert found.largest(len(x)) == pytest.approx(found.top)
    assert found.largest(50) == pytest.approx(found.top + found.variance / (50 / (1 - 50 / 400)) / found.top)
    assert found.largest(1) >= 2 * math.sqrt(found.variance / effective_batch(1, 400)) - 1e-6


def test_rate_is_two_over_the_curvature_and_the_boundary_of_descent():
    module, x, y = regression()
    rate = max_learning_rate(module, half_square, (x, y), 400)
    assert rate == pytest.approx(2 / float(torch.linalg.eigvalsh(x.mT @ x / 400)[-1]), rel=1e-6)
    assert max_learning_rate(module, half_square, (x, y), 400, measured=True) == pytest.approx(rate, rel=1e-6)
    g = torch.Generator().manual_seed(2)
    small = max_learning_rate(module, half_square, (x, y), 2, measured=True, repeats=100, generator=g)
    assert small < 0.95 * rate
    for factor, grows in ((0.95, False), (1.05, True)):
        linear = nn.Linear(6, 1, bias=False).double()
        nn.init.constant_(linear.weight, 5.0)
        optimizer = torch.optim.SGD(linear.parameters(), lr=factor * rate)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = half_square(linear, x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert (losses[-1] > losses[0]) == grows


def test_scheduler_sets_rate_and_momentum():
    module, x, y = regression()
    optimizer = torch.optim.SGD(module.parameters(), lr=123.0, momentum=0.1)
    scheduler = LanczosLR(optimizer, module, half_square, every=5, steps=6, momentum=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = half_square(module, x, y)
        loss.backward()
        scheduler.step(x, y)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 99.0  # another scheduler's doing
        losses.append(loss.item())
    assert len(scheduler.history) == 6
    top = float(torch.linalg.eigvalsh(x.mT @ x / 400)[-1])
    assert scheduler.history[0]["top"] == pytest.approx(top, rel=1e-6)
    assert 0 < optimizer.param_groups[0]["momentum"] < 1
    best = torch.linalg.lstsq(x, y).solution
    assert losses[-1] < 1.01 * float(0.5 * (x @ best - y).square().mean()) + 1e-9
    plain = LanczosLR(torch.optim.SGD(module.parameters(), lr=1.0), module, half_square, steps=6, scale=0.25)
    plain.step(x, y)
    assert plain.optimizer.param_groups[0]["lr"] == pytest.approx(0.5 / top, rel=1e-6)
    assert plain.optimizer.param_groups[0]["momentum"] == 0


def test_bad_input_is_refused():
    module, x, y = regression()
    for batch in (0, 401):
        with pytest.raises(ValueError, match="between 1"):
            effective_batch(batch, 400)
        with pytest.raises(ValueError, match="between 1"):
            max_learning_rate(module, half_square, (x, y), batch)
    for group in (0, 400):
        with pytest.raises(ValueError, match="group="):
            hessian_noise(module, half_square, (x, y), group=group)
    with pytest.raises(ValueError, match="draws="):
        hessian_noise(module, half_square, (x, y), draws=0)
    with pytest.raises(ValueError, match="no largest"):
        max_learning_rate(module, lambda m, x, y: -half_square(m, x, y), (x, y), 400, measured=True)
    with pytest.raises(ValueError, match="no Hessian"):
        hessian_noise(module, lambda m, x, y: half_square(m, x, y) / 0, (x, y))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="scale="):
        LanczosLR(optimizer, module, half_square, scale=0)
    with pytest.raises(ValueError, match="steps="):
        LanczosLR(optimizer, module, half_square, steps=1)
    assert autolr.effective_batch(400, 400) == math.inf
