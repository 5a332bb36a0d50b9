"""Kernels drawn over coordinates."""

import pytest
import torch
import torch.nn.functional as F

from gramian.nn.hyperzzw import magnet


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_kernels_are_products_of_sines(dimensions, layers):
    settings = {"dimensions": dimensions, "width": 6, "layers": layers}
    net = magnet.MAGNet(2, 4, **settings, generator=seeded()).double()
    with torch.no_grad():
        net.plane.normal_(generator=seeded(1))
    places = torch.cartesian_prod(*[torch.linspace(-1, 1, 4).double()] * dimensions).view(-1, dimensions)
    h = torch.sin(places @ net.filters[0].weight.T)
    for filters, mix in zip(net.filters[1:], net.mixes, strict=True):
        h = torch.sin(places @ filters.weight.T) * (h @ mix.weight.T + 1) + net.plane
    expected = (h @ net.output.weight.T).T.reshape(2, *[4] * dimensions)
    torch.testing.assert_close(net(), expected, rtol=0, atol=1e-9)


def test_one_seed_gives_one_network_and_the_frequency_scales_the_filters():
    one, same, fast = (magnet.MAGNet(2, 8, frequency=f, generator=seeded(3)) for f in (0.5, 0.5, 1))
    assert torch.equal(one(), same())
    for slow, quick in zip(one.filters, fast.filters, strict=True):
        torch.testing.assert_close(2 * slow.weight, quick.weight)


def test_weights_of_the_output_shrink_with_the_number_of_coordinates():
    small, large = (magnet.MAGNet(64, n, width=64, generator=seeded()).output.weight for n in (4, 16))
    torch.testing.assert_close(small / 4, large)
    assert 0.9 < float(small.detach().std() * 4 * 8) < 1.1


def test_context_kernels_are_their_formula():
    net = magnet.ContextMAGNet(3, 3, width=8, generator=seeded()).double()
    x = torch.randn(4, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    gate = F.gelu(net.mix(net.reduce(F.avg_pool2d(x, 2).mean(0).flatten(1).T)))
    h = torch.sin(net.filters[0](net.coordinates))
    for i in (0, 1):
        h = torch.sin(net.filters[i + 1](net.coordinates)) * net.mixes[i](h) + net.plane
        h = h * (net.alpha[i] + net.beta[i] / h.norm(dim=0)) * net.gates[i](gate)
    torch.testing.assert_close(net(x), net.output(h).T.reshape(3, 3, 3), rtol=0, atol=1e-10)


def test_gradients_of_the_features_pass_through_the_normalized_part_alone():
    net = magnet.ContextMAGNet(3, 3, width=8, generator=seeded()).double()
    x = torch.randn(4, 3, 6, 6, generator=seeded(1), dtype=torch.float64)
    net(x).square().sum().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in net.filters)
    net.zero_grad()
    with torch.no_grad():
        net.beta.zero_()
    net(x).square().sum().backward()
    assert all(layer.weight.grad.abs().max() == 0 for layer in net.filters)
    assert net.alpha.grad.abs().max() > 0


def test_evaluation_uses_the_running_mean_and_leaves_it():
    net = magnet.ContextMAGNet(2, 3, width=8, momentum=0.25, generator=seeded())
    one, two = torch.randn(2, 5, 2, 6, 6, generator=seeded(1))
    kernel = net(one)
    assert not torch.allclose(kernel, net(two))
    expected = 0.25 * (0.75 * F.avg_pool2d(one, 2) + F.avg_pool2d(two, 2)).mean(0)
    torch.testing.assert_close(net.running, expected)
    net.eval()
    assert torch.equal(net(one), net(two))
    torch.testing.assert_close(net.running, expected)
    assert "running" in net.state_dict()


def test_bad_arguments_are_refused():
    for settings in ({"width": 0}, {"layers": 0}, {"frequency": 0.0}, {"frequency": float("inf")}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            magnet.MAGNet(2, 4, **settings)
    with pytest.raises(ValueError, match="size=0"):
        magnet.grid(0)
    with pytest.raises(ValueError, match="momentum=0"):
        magnet.ContextMAGNet(2, 3, momentum=0.0)
    with pytest.raises(ValueError, match="maps of 4 channels"):
        magnet.ContextMAGNet(2, 3)(torch.zeros(1, 4, 6, 6))
