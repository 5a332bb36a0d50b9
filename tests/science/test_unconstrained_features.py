import itertools

import pytest
import torch

from gramian.analysis.geometry import collapse
from gramian.science.deep_linear_collapse import deep_linear_solution
from gramian.science.unconstrained_features import FeaturesNotConverged, UnconstrainedFeatures


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_objective_is_its_formula_and_has_right_gradients():
    model = UnconstrainedFeatures((3, 2), 3, (0.1, 0.2), 0.3, bias=True)
    generator = seeded()
    shapes = ((3, 3), (2, 3), (3, 5), (2,))
    first, last, h, b = (torch.randn(*s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    y = torch.tensor([[1.0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).double()
    by_hand = ((last @ first @ h + b[:, None] - y) ** 2).sum() / 10
    by_hand = by_hand + 0.05 * (first**2).sum() + 0.1 * (last**2).sum() + 0.15 * (h**2).sum()
    torch.testing.assert_close(model.objective([first, last], h, b), by_hand)
    assert torch.autograd.gradcheck(lambda *p: model.objective(p[:2], *p[2:]), (first, last, h, b))


@pytest.mark.parametrize("decay", [(2e-3,), (1e-3, 2e-3), (1e-3, 2e-3, 5e-4)])
def test_minimum_is_the_closed_form(decay):
    counts = (12, 5, 2)
    model = UnconstrainedFeatures(counts, 4, decay, 1e-3)
    best = model.minimize(seeded(1))
    theory = deep_linear_solution(counts, decay, 1e-3)
    assert best.value == pytest.approx(theory.value, abs=1e-9)
    out = best.product @ best.features
    torch.testing.assert_close(out, theory.strengths[:, None] * model.targets, atol=1e-4, rtol=0)
    for weight, expected in zip(best.weights, theory.layers):
        values = torch.linalg.svdvals(weight)[:3]
        torch.testing.assert_close(values, expected.sort(descending=True).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(best.features.norm(dim=0), theory.lengths[model.labels], atol=1e-4, rtol=0)
    for (a, b), (i, j) in zip(itertools.pairwise(best.weights), itertools.pairwise(decay)):
        torch.testing.assert_close(j * b.T @ b, i * a @ a.T, atol=1e-6, rtol=0)


def test_small_classes_vanish_where_the_theory_says():
    found = deep_linear_solution((50, 4, 3), (0.03,), 0.03)
    limit = 57**2 * 0.03**2  # 2.92
    assert limit < 3
    assert bool((found.strengths > 0).all())
    gone = deep_linear_solution((50, 4, 2), (0.03,), 0.033)
    assert 56**2 * 0.03 * 0.033 > 2
    assert gone.strengths[2] == 0
    assert gone.lengths[2] == 0


def test_strength_of_many_layers_is_the_lowest_point_of_a_grid():
    for decay in (1e-4, 1e-3, 5e-3, 2e-2, 0.2):
        for layers in (2, 3, 5):
            counts = (30, 7, 1)
            found = deep_linear_solution(counts, (decay,) * layers, decay)
            s = torch.linspace(0, 1, 20001, dtype=torch.float64)
            parts = layers + 1
            for count, strength in zip(counts, found.strengths):
                price = (decay * count * decay**layers) ** (1 / parts)
                curve = count / 76 * (s - 1) ** 2 + parts / 2 * price * s ** (2 / parts)
                assert float(s[curve.argmin()]) == pytest.approx(float(strength), abs=1e-4)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_balanced_classes_with_a_bias_form_a_simplex(loss):
    model = UnconstrainedFeatures((4,) * 4, 5, (1e-2,), 1e-3, loss=loss, bias=loss == "mse")
    best = model.minimize(seeded(2))
    means = best.features.view(5, 4, 4)
    assert float(means.std(-1).max()) < 1e-5
    assert float(collapse.angle_deviation(means.mean(-1).T)) < 1e-4


def test_features_stay_near_given_ones_when_moving_is_dear():
    near = torch.randn(3, 4, generator=seeded(), dtype=torch.float64)
    best = UnconstrainedFeatures((2, 2), 3, (1e-2,), 1e4, near=near).minimize(seeded(3))
    torch.testing.assert_close(best.features, near, atol=1e-3, rtol=0)
    again = UnconstrainedFeatures((2, 2), 3, (1e-2,), 1e4, near=near).minimize(start=best)
    assert again.value == pytest.approx(best.value, abs=1e-10)


def test_bad_input_is_refused():
    for settings, message in (
        ({"counts": (3,)}, "two classes"), ({"counts": (3, 0)}, "each with a sample"), ({"dim": 1}, "does not fit"),
        ({"weight_decay": (0.0,)}, "must be positive"), ({"feature_decay": -1.0}, "must be positive"),
        ({"near": torch.zeros(3, 7)}, "near has shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            UnconstrainedFeatures(
                **({"counts": (3, 3), "dim": 3, "weight_decay": (1e-2,), "feature_decay": 1e-2} | settings)
            )
    model = UnconstrainedFeatures((3, 3), 3, (1e-2,), 1e-2)
    with pytest.warns(FeaturesNotConverged, match="more steps"):
        found = model.minimize(seeded(), steps=2)
    with pytest.raises(ValueError, match="start has shapes"):
        UnconstrainedFeatures((3, 4), 3, (1e-2,), 1e-2).minimize(start=found)
    with pytest.raises(ValueError, match="at least one sample"):
        deep_linear_solution((3, 0), (1e-2,), 1e-2)
    with pytest.raises(ValueError, match="must be positive"):
        deep_linear_solution((3, 1), (), 1e-2)
