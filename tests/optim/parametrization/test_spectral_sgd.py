import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from gramian.optim.parametrization.spectral_sgd import SpectralSGD, power_iteration


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.sampled_from([1e-30, 1.0, 1e20]))
def test_update_has_the_asked_norm_whatever_the_gradients_scale(rows, columns, seed, scale):
    g = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.zeros(rows, columns))
    w.grad = torch.randn(rows, columns, generator=g) * scale
    SpectralSGD([w], 0.5, power_iters=300).step()
    wanted = 0.5 * (rows / columns) ** 0.5
    assert abs(float(torch.linalg.matrix_norm(w.detach(), 2)) / wanted - 1) < 0.02
    cosine = torch.cosine_similarity(w.detach().flatten(), -w.grad.sign().flatten() * w.grad.abs().flatten() / scale, 0)
    assert float(cosine) > 0.999


def test_warm_start_reaches_the_norm_over_steps():
    g = torch.Generator().manual_seed(0)
    gradient = torch.randn(64, 48, generator=g)
    w = nn.Parameter(torch.zeros(64, 48))
    tuner = SpectralSGD([w], 1.0, power_iters=1)
    for _ in range(60):
        before = w.detach().clone()
        w.grad = gradient.clone()
        tuner.step()
    moved = float(torch.linalg.matrix_norm(w.detach() - before, 2))
    assert abs(moved / (64 / 48) ** 0.5 - 1) < 0.02
    assert tuner.step(lambda: 7) == 7


def test_vectors_kernels_zeros_and_momentum():
    bias, kernel, still, idle = (nn.Parameter(torch.zeros(s)) for s in ((9,), (4, 2, 3, 3), (3, 3), (2, 2)))
    bias.grad, kernel.grad, still.grad = torch.ones(9), torch.ones(4, 2, 3, 3), torch.zeros(3, 3)
    SpectralSGD([bias, kernel, still, idle], 1.0, power_iters=5).step()
    torch.testing.assert_close(bias.detach(), -torch.ones(9))
    norm = torch.linalg.matrix_norm(kernel.detach().reshape(4, -1), 2)
    torch.testing.assert_close(float(norm), (4 / 18) ** 0.5)
    assert float(still.detach().abs().max()) == 0
    assert float(idle.detach().abs().max()) == 0
    # a first direction that the gradient does not see
    w = nn.Parameter(torch.zeros(2, 2))
    tuner = SpectralSGD([w], 1.0)
    tuner.state[w]["vector"] = torch.tensor([0.0, 1.0])
    w.grad = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    tuner.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))
    heavy = nn.Parameter(torch.zeros(1, 1))
    tuner = SpectralSGD([heavy], 1.0, momentum=0.9)
    for value in (1.0, -0.5):  # the momentum still points along the first gradient
        heavy.grad = torch.full((1, 1), value)
        tuner.step()
    assert float(heavy.detach()) == -2.0


def test_low_precision_stays():
    w = nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
    w.grad = torch.ones(8, 8, dtype=torch.bfloat16)
    SpectralSGD([w], 0.5, power_iters=3).step()
    assert w.dtype == torch.bfloat16
    assert abs(float(torch.linalg.matrix_norm(w.detach().float(), 2)) - 0.5) < 0.01


def test_power_iteration_and_errors():
    norm, vector = power_iteration(torch.diag(torch.tensor([1.0, 3.0])), torch.tensor([0.6, 0.8]), 20)
    assert abs(float(norm) - 3) < 1e-5
    assert float(power_iteration(torch.zeros(2, 2), torch.tensor([1.0, 0.0]), 3)[0]) == 0
    w = [nn.Parameter(torch.zeros(2, 2))]
    for settings, word in (({"lr": -1.0}, "lr"), ({"lr": 1.0, "momentum": 1.0}, "momentum"),
                           ({"lr": 1.0, "power_iters": 0}, "power_iters")):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            SpectralSGD(w, **settings)
    with pytest.raises(ValueError, match="without axes"):
        SpectralSGD([nn.Parameter(torch.tensor(1.0))], 0.1)
