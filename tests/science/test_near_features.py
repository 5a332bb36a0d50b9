import pytest
import torch

from gramian.science.near_features import NearFeatures, NotStationary, central_path
from gramian.science.unconstrained_features import UnconstrainedFeatures


def problem(seed=0, classes=3, size=4, dim=5, **settings):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(size)  # not sorted by class
    near = torch.randn(dim, classes, generator=generator, dtype=torch.float64)[:, labels]
    near = near + 0.5 * torch.randn(dim, classes * size, generator=generator, dtype=torch.float64)
    return NearFeatures(labels, **({"weight_decay": 0.05, "proximity": 0.2} | settings)), near


def test_flow_is_minus_the_gradient_of_the_reduced_objective():
    model, near = problem()
    h = near.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.reduced(h), h)
    torch.testing.assert_close(model.flow(near), -12 * gradient)
    assert torch.autograd.gradcheck(model.reduced, h)


def test_the_classifier_is_the_best():
    model, near = problem()
    weight = model.classifier(near).requires_grad_()
    (gradient,) = torch.autograd.grad(model.objective(weight, near, near), weight)
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("proximity", [0.02, 0.2, 5.0])
def test_minimum_is_that_of_both_variables_at_once(proximity):
    model, near = problem(proximity=proximity)
    weight, features = model.minimize(near)
    order = model.labels.argsort(stable=True)
    rival = UnconstrainedFeatures((4,) * 3, 5, (0.05 / 3,), proximity / 12, near=near[:, order])
    found = rival.minimize(torch.Generator().manual_seed(1))
    assert float(model.objective(weight, features, near)) == pytest.approx(found.value, abs=1e-9)
    torch.testing.assert_close(found.features, features[:, order], atol=1e-4, rtol=0)


def test_paths_of_a_batch_are_the_paths_of_each():
    model, near = problem()
    other = near.flip(0)
    both = central_path(model, torch.stack((near, other)), 0.3, 5)
    alone = central_path(model, other, 0.3, 5)
    torch.testing.assert_close(both.within[1], alone.within)
    torch.testing.assert_close(both.nc1[1], alone.nc1)
    assert both.between.shape == (2, 6)
    by_hand = near + 0.3 * model.flow(near)
    torch.testing.assert_close(central_path(model, near, 0.3, 1).features, by_hand)


def test_perturbation_is_the_derivative_of_the_minimum():
    model, near = problem()
    change = torch.randn(5, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    features = model.minimize(near)[1]
    up, down = (model.minimize(near + s * 1e-4 * change)[1] for s in (1, -1))
    torch.testing.assert_close(model.perturbation(features, change), (up - down) / 2e-4, atol=1e-5, rtol=1e-5)


def test_bad_input_is_refused():
    model, near = problem()
    labels = model.labels
    for call, message in (
        (lambda: NearFeatures(labels[:-1], 0.1), "all of one size"),
        (lambda: NearFeatures(labels, 0.0), "must be positive"),
        (lambda: NearFeatures(labels, 0.1, -1.0), "not negative"),
        (lambda: NearFeatures(labels, 0.1).minimize(near), "does not depend"),
        (lambda: model.minimize(near[:2]), "do not fit"),
        (lambda: model.classifier(near[:, :3]), "columns of features"),
        (lambda: central_path(model, near, 0.0, 3), "dt=0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.warns(NotStationary, match="pull of the given"):
        model.minimize(near, tolerance=1e-30)
