import math
from itertools import pairwise

import pytest
import torch

from gramian.models.generative import diffusion


def path(steps=50):
    return diffusion.DDPMPath(diffusion.cosine_betas(steps))


@pytest.mark.parametrize("betas", [diffusion.linear_betas(200), diffusion.cosine_betas(200)])
def test_a_path_goes_from_data_to_noise(betas):
    found = diffusion.DDPMPath(betas)
    kept = 1.0
    for beta, share in zip(betas.tolist(), found.alpha_bar.tolist(), strict=True):
        kept *= 1 - beta
        assert abs(kept - share) < 1e-12
    assert found.alpha_bar[0] > 0.99
    assert found.alpha_bar[-1] < 1e-3


def test_the_cosine_schedule_is_its_formula():
    f = torch.cos((torch.arange(11, dtype=torch.float64) / 10 + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(diffusion.DDPMPath(diffusion.cosine_betas(10)).alpha_bar[:-1], (f / f[0])[1:-1])


def test_adding_noise_and_the_loss_of_the_right_answer():
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(6, 2, 3, generator=g), torch.randn(6, 2, 3, generator=g)
    t = torch.tensor([0, 1, 20, 30, 48, 49])
    noisy = path().add_noise(x, t, noise)
    for i, when in enumerate(t.tolist()):
        share = float(path().alpha_bar[when])
        torch.testing.assert_close(noisy[i], share**0.5 * x[i] + (1 - share) ** 0.5 * noise[i])
    clean = torch.zeros(64, 5)

    def knows(z, t, condition):  # where the data is zero, all that is seen is noise
        return z / path().scales(t, z)[1]

    assert float(path().loss(knows, clean, generator=g)) < 1e-9
    assert abs(float(path().loss(lambda z, t, c: 0 * z, clean, generator=g)) - 1) < 0.3


def gaussian(mean, deviation):
    """The exact answer for data that are normal."""

    def network(x, t, condition):
        signal, sigma = path().scales(t, x)
        return sigma * (x - signal * mean) / (signal**2 * deviation**2 + sigma**2)

    return network


@pytest.mark.parametrize(("method", "bound"), [("ddpm", 0.06), ("ddim", 0.06)])
def test_samples_of_the_exact_network_have_the_datas_mean_and_spread(method, bound):
    g = torch.Generator().manual_seed(0)
    x = path().sample(gaussian(2.0, 0.5), (4000, 1), method=method, generator=g)
    assert abs(float(x.mean()) - 2) < bound
    assert abs(float(x.std()) - 0.5) < bound


def test_ddim_is_a_function_of_its_start_and_repeats_with_its_generator():
    start = torch.randn(5, 1, generator=torch.Generator().manual_seed(0))
    network = gaussian(0.0, 1.0)
    a, b = (path().sample(network, (5, 1), method="ddim", steps=10, start=start) for _ in range(2))
    assert torch.equal(a, b)
    angles = path().alpha_bar.sqrt().arccos()[torch.linspace(49, 0, 10).round().long()].tolist() + [0.0]
    turned = math.prod(math.cos(x - y) for x, y in pairwise(angles))  # each step turns signal and noise by an angle
    torch.testing.assert_close(a, turned * start, rtol=1e-4, atol=1e-5)
    c, d = (path().sample(network, (5, 1), generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(c, d)
    clipped = path().sample(gaussian(3.0, 0.5), (50, 1), clip=1, generator=torch.Generator().manual_seed(1))
    assert clipped.abs().max() <= 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        diffusion.cosine_betas(0)
    with pytest.raises(ValueError, match="must be in"):
        diffusion.linear_betas(10)
    with pytest.raises(ValueError, match="each in"):
        diffusion.DDPMPath(torch.tensor([0.1, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="times from"):
        path().scales(torch.tensor([50]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="51"):
        path().sample(gaussian(0.0, 1.0), (1, 1), steps=51)
