import copy

import pytest
import torch
from torch import nn

from gramian.optim.mfac import MFAC


def batches(count):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 4, generator=g, dtype=torch.float64), torch.randn(8, 3, generator=g, dtype=torch.float64))
            for _ in range(count)]  # fmt: skip


def train(model, optimizer, data):
    for x, y in data:
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def test_steps_are_those_of_the_dense_inverse():
    model = nn.Linear(4, 3).double()
    slow = copy.deepcopy(model)
    train(model, MFAC(model.parameters(), lr=0.01, window=3, damp=0.1, momentum=0.5, weight_decay=0.1), batches(7))
    rows, velocity = [], 0
    for x, y in batches(7):
        gradient = torch.autograd.grad((slow(x) - y).square().mean(), list(slow.parameters()))
        rows = (rows + [torch.cat([g.flatten() for g in gradient])])[-3:]
        stacked = torch.stack(rows)
        fisher = 0.1 * torch.eye(15, dtype=torch.float64) + stacked.T @ stacked / len(rows)
        velocity = 0.5 * velocity + torch.linalg.solve(fisher, rows[-1])
        with torch.no_grad():
            flat = nn.utils.parameters_to_vector(slow.parameters())
            nn.utils.vector_to_parameters(flat * (1 - 0.001) - 0.01 * velocity, slow.parameters())
    for a, b in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_resumed_training_continues_as_if_uninterrupted():
    data = batches(8)
    model = nn.Linear(4, 3).double()
    other = copy.deepcopy(model)
    train(model, MFAC(model.parameters(), window=3, damp=0.1), data)
    first = MFAC(other.parameters(), window=3, damp=0.1)
    train(other, first, data[:5])
    second = MFAC(other.parameters(), window=3, damp=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(other, second, data[5:])
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_bad_input_is_refused():
    p = [nn.Parameter(torch.ones(2))]
    for wrong in ({"lr": -1.0}, {"window": 0}, {"damp": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError):
            MFAC(p, **wrong)
    p[0].grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(ValueError, match="NaN"):
        MFAC(p).step()
    assert p[0].tolist() == [1.0, 1.0]
