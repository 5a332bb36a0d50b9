import pytest
import torch

from gramian.analysis.explain.circle import CircleProbe


def states(period=9, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    numbers = torch.arange(period).repeat(6)
    probe = CircleProbe(period)
    other = torch.randn(len(numbers), 3, generator=generator, dtype=torch.float64)
    x = 2 * probe.circle(numbers, 2) @ basis[:2] + 0.4 * probe.circle(numbers, 1) @ basis[2:4] + other @ basis[4:7] + 3
    return x, numbers, basis, other


def test_the_larger_circle_is_found_read_and_turned_and_the_rest_stays():
    x, numbers, basis, other = states()
    probe = CircleProbe(9).fit(x, numbers)
    assert probe.frequency == 2
    assert probe.r2 > 0.999
    assert torch.equal(probe.predict(x), numbers)
    moved = probe.move(x, (numbers + 4) % 9)
    assert torch.equal(probe.predict(moved), (numbers + 4) % 9)
    assert torch.allclose((moved - 3) @ basis[4:7].T, (x - 3) @ basis[4:7].T, atol=0.5)
    assert torch.allclose(probe.move(x, numbers), x, atol=1e-9)
    assert probe.move(x.float(), numbers).dtype == torch.float32


def test_without_other_features_the_turn_is_exact():
    x, numbers, basis, other = states()
    x = x - other @ basis[4:7]
    probe = CircleProbe(9, frequency=2).fit(x, numbers)
    turned = probe.move(x, (numbers + 1) % 9)
    expected = x + 2 * (probe.circle((numbers + 1) % 9) - probe.circle(numbers)) @ basis[:2]
    assert torch.allclose(turned, expected, atol=1e-8)
    assert probe.share == pytest.approx(4 / 4.16, abs=1e-6)


def test_what_a_probe_refuses():
    x, numbers, *_ = states()
    with pytest.raises(ValueError, match="three numbers"):
        CircleProbe(2)
    with pytest.raises(ValueError, match="frequency"):
        CircleProbe(7, frequency=4)
    with pytest.raises(ValueError, match="plane"):
        CircleProbe(7, components=1)
    with pytest.raises(ValueError, match="different numbers"):
        CircleProbe(9).fit(x[:2], numbers[:2])
    with pytest.raises(ValueError, match="54 states and 5"):
        CircleProbe(9).fit(x, numbers[:5])
    with pytest.raises(ValueError, match="on a line"):
        CircleProbe(9).fit(torch.ones_like(x), numbers)
