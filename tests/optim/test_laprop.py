import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.optim.checkpoint import pack_optimizer, unpack_optimizer
from gramian.optim.laprop import LaProp


def run(gradients, tuner=LaProp, dtype=torch.float64, **settings):
    """The path of one number under given gradients."""
    parameter = nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer = tuner([parameter], **settings)
    path = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=dtype)
        optimizer.step()
        path.append(parameter.item())
    return path


@settings(max_examples=10)
@given(seed=st.integers(0, 99), beta1=st.sampled_from([0.0, 0.5, 0.9]), beta2=st.sampled_from([0.9, 0.999]))
def test_the_path_is_the_sum_over_all_gradients(seed, beta1, beta2):
    gradients = torch.randn(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    expected, place = [], 0.0
    for t in range(1, 13):
        step = 0.0
        for i in range(1, t + 1):
            n = (1 - beta2) * sum(beta2 ** (i - j) * gradients[j - 1] ** 2 for j in range(1, i + 1)) / (1 - beta2**i)
            step += (1 - beta1) * beta1 ** (t - i) * 0.01 * gradients[i - 1] / math.sqrt(n)
        place -= step / (1 - beta1**t)
        expected.append(place)
    assert run(gradients, lr=0.01, betas=(beta1, beta2), eps=0.0) == pytest.approx(expected, rel=1e-9)


def test_without_momentum_it_is_adam():
    gradients = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    settings = {"lr": 0.1, "betas": (0.0, 0.99), "eps": 1e-12}
    assert run(gradients, **settings) == pytest.approx(run(gradients, torch.optim.Adam, **settings), rel=1e-9)


def test_a_large_gradient_does_not_shrink_what_came_before():
    gradients = [1.0] * 5 + [1e4, 0.0, 0.0]
    ours = run(gradients, lr=0.1, betas=(0.9, 0.999))
    adam = run(gradients, torch.optim.Adam, lr=0.1, betas=(0.9, 0.999))
    # with five equal gradients both took steps of lr
    assert ours[4] == pytest.approx(-0.5)
    assert adam[4] == pytest.approx(-0.5, rel=1e-6)
    # Adam measures the old gradients by the new scale: they no longer count
    assert abs(adam[5] - adam[4]) < 0.6 * abs(ours[5] - ours[4])


def test_zero_gradients_move_nothing_and_tiny_ones_do():
    assert run([0.0, 0.0], eps=0.0) == [0.0, 0.0]
    assert run([1e-12], lr=0.1, eps=1e-20) == pytest.approx([-0.1])


def test_decay_is_decoupled_and_half_precision_keeps_its_moments_wide():
    parameter = nn.Parameter(torch.full((2,), 4.0, dtype=torch.bfloat16))
    optimizer = LaProp([parameter], lr=0.5, weight_decay=0.5)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert parameter.tolist() == [3.0, 3.0]
    assert optimizer.state[parameter]["square"].dtype == torch.float32


def test_its_state_can_be_kept():
    gradients = torch.randn(6, generator=torch.Generator().manual_seed(1)).tolist()
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = LaProp([parameter], lr=0.1)
    for index, gradient in enumerate(gradients):
        if index == 3:
            tensors, rest = pack_optimizer(optimizer)
            optimizer = LaProp([parameter], lr=7.0)
            unpack_optimizer(optimizer, tensors, rest)
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
    assert parameter.item() == pytest.approx(run(gradients, dtype=torch.float32, lr=0.1)[-1])


def test_a_closure_is_called_with_gradient():
    parameter = nn.Parameter(torch.ones(1))
    optimizer = LaProp([parameter], lr=0.25)

    def loss():
        optimizer.zero_grad()
        value = parameter.square().sum()
        value.backward()
        return value

    assert optimizer.step(loss).item() == 1.0
    assert parameter.item() == 0.75


@pytest.mark.parametrize("bad", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eps": -1e-9}, {"weight_decay": -0.1}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="="):
        LaProp([nn.Parameter(torch.zeros(1))], **bad)


def test_sparse_gradients_are_refused():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense"):
        LaProp(table.parameters()).step()
