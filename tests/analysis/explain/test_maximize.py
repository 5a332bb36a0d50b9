"""Ascents whose end is known, and every regularizer for itself."""

import pytest
import torch
from torch import nn

from gramian.analysis.explain import maximize
from gramian.analysis.explain.maximize import Prior


@pytest.fixture
def unit():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 64, 3))
    return model.train()


def start(*shape, seed=1):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_total_variation_is_the_sum_of_squared_steps():
    x = start(2, 3, 5, 7).double()
    wanted = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for c in range(3):
            for i in range(5):
                for j in range(7):
                    wanted[b] += (x[b, c, i + 1, j] - x[b, c, i, j]) ** 2 if i < 4 else 0
                    wanted[b] += (x[b, c, i, j + 1] - x[b, c, i, j]) ** 2 if j < 6 else 0
    assert torch.allclose(maximize.total_variation(x), wanted / 35)
    assert torch.autograd.gradcheck(maximize.total_variation, x.requires_grad_())


def test_the_first_step_goes_along_the_gradient_and_has_the_asked_length(unit):
    x = start(2, 2, 8, 8).requires_grad_()
    score = maximize.unit_activation(unit, "", 1)
    (gradient,) = torch.autograd.grad(unit(x)[:, 1].sum(), x)
    found = maximize.maximize(unit, score, x.detach(), steps=1, rate=0.3)
    move = (found.images - x.detach()).flatten(1)
    assert torch.allclose(move.norm(dim=1), torch.tensor(0.3), atol=1e-5)
    assert torch.allclose(nn.functional.cosine_similarity(move, gradient.flatten(1)), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(found.history[0], unit(x)[:, 1])
    assert torch.allclose(found.activations, unit(found.images)[:, 1])


def test_the_model_and_the_start_are_left_as_found_and_a_seed_repeats(unit):
    x = start(1, 2, 8, 8)
    before, weights = x.clone(), [p.clone() for p in unit.parameters()]
    next(unit.parameters()).requires_grad_(False)
    prior = Prior(jitter=2, blur=(0.6, 0.3), smoothness=1, centre=0.4, bounds=(-1, 1), ball=3.0)
    twice = [
        maximize.maximize(unit, maximize.unit_activation(unit, "0", 2), x, steps=6, prior=prior,
                          generator=torch.Generator().manual_seed(5)) for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(twice[0].images, twice[1].images)
    assert twice[0].history.shape == (6, 1)
    assert torch.equal(x, before)
    assert unit.training
    assert [p.requires_grad for p in unit.parameters()] == [False, True, True, True]
    assert all(torch.equal(p, w) and p.grad is None for p, w in zip(unit.parameters(), weights))
    other = maximize.maximize(unit, maximize.unit_activation(unit, "0", 2), x, steps=6, prior=prior,
                              generator=torch.Generator().manual_seed(6))  # fmt: skip
    assert not torch.equal(other.images, twice[0].images)


def test_a_channel_is_its_mean_over_places(unit):
    x = start(3, 2, 8, 8)
    assert torch.allclose(maximize.unit_activation(unit, "0", 2)(x), unit[0](x)[:, 2].mean((1, 2)))


def test_each_regularizer_does_its_part(unit):
    x, score = start(1, 2, 8, 8), maximize.unit_activation(unit, "", 0)

    def run(steps=30, **prior):
        return maximize.maximize(unit, score, x, steps=steps, rate=0.5, prior=Prior(**prior)).images

    plain = run()
    assert maximize.total_variation(run(smoothness=50.0)) < 0.3 * maximize.total_variation(plain)
    assert maximize.total_variation(run(blur=(0.8, 0.5))) < 0.3 * maximize.total_variation(plain)
    assert float(run(ball=0.7).norm()) <= 0.7 + 1e-5 < float(plain.norm())
    held = run(bounds=(-0.25, 0.125))
    assert -0.25 <= float(held.min()) < float(held.max()) <= 0.125
    assert not torch.equal(run(jitter=3), plain)
    early = (run(steps=1, centre=0.3) - x).abs()[0].sum(0)  # the first step paints the middle
    everywhere = (run(steps=1) - x).abs()[0].sum(0)
    share = early[2:6, 2:6].sum() / early.sum(), everywhere[2:6, 2:6].sum() / everywhere.sum()
    assert share[0] > share[1] + 0.2
    assert float(run(ball=0.5).flatten(1).norm()) == pytest.approx(0.5, abs=1e-5)
    far = maximize.maximize(unit, score, x + 2, steps=5, prior=Prior(ball=0.5, middle=2)).images
    assert float((far - 2).norm()) == pytest.approx(0.5, abs=1e-4)


def test_float64_stays_float64(unit):
    found = maximize.maximize(unit.double(), maximize.unit_activation(unit, "", 0), start(1, 2, 8, 8).double(), steps=2)
    assert found.images.dtype == torch.float64


def test_what_cannot_be_climbed_is_named(unit):
    x = start(1, 2, 8, 8)
    score = maximize.unit_activation(unit, "", 0)
    with pytest.raises(ValueError, match="unit=3"):
        maximize.maximize(unit, maximize.unit_activation(unit, "", 3), x)
    with pytest.raises(ValueError, match="no module matches"):
        maximize.unit_activation(unit, "head", 0)
    with pytest.raises(ValueError, match="differentiated"):
        maximize.maximize(unit, lambda pictures: pictures.sign().sum((1, 2, 3)).detach(), x)
    with pytest.raises(ValueError, match="one number"):
        maximize.maximize(unit, unit, x)
    with pytest.raises(ValueError, match="steps=0"):
        maximize.maximize(unit, score, x, steps=0)
    with pytest.raises(ValueError, match="NaN"):
        maximize.maximize(unit, score, x * float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        maximize.maximize(unit, lambda pictures: pictures.clamp(max=0).sqrt().sum((1, 2, 3)), x)
    for wrong in ({"jitter": -1}, {"centre": 0}, {"ball": 0.0}, {"bounds": (1.0, 1.0)}, {"smoothness": -1}):
        with pytest.raises(ValueError):
            Prior(**wrong)
    assert unit.training
