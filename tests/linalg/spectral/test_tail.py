"""The tail of a spectrum, against distributions whose exponent is known."""

import pytest
import torch

from gramian.linalg.spectral.tail import power_law_tail, random_edge


@pytest.mark.parametrize("exponent", [2.0, 2.5, 4.0])
def test_the_exponent_of_a_power_law_is_found(exponent):
    u = torch.rand(1500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = power_law_tail(2.0 * (1 - u) ** (-1 / (exponent - 1)))
    assert found.exponent == pytest.approx(exponent, rel=0.12)
    assert found.distance < 0.05


def test_the_start_is_found_where_a_body_without_power_law_stands_before_it():
    generator = torch.Generator().manual_seed(0)
    body = torch.rand(1000, generator=generator, dtype=torch.float64)
    tail = 1.0 * (1 - torch.rand(500, generator=generator, dtype=torch.float64)) ** (-1 / 1.5)
    found = power_law_tail(torch.cat([body, tail]))
    assert 0.7 < found.start < 2.5
    assert found.exponent == pytest.approx(2.5, rel=0.2)


def test_the_fit_does_not_depend_on_scale_or_order():
    x = torch.rand(300, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** -0.7
    a, b = power_law_tail(x), power_law_tail(1e6 * x.flip(0))
    assert a.exponent == pytest.approx(b.exponent, rel=1e-9)
    assert a.count == b.count


def test_random_matrices_stay_under_the_edge_and_planted_directions_pass_it():
    w = 0.3 * torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    edge = random_edge(300, 200, 0.09)
    assert float(torch.linalg.svdvals(w)[0]) == pytest.approx(edge, rel=0.03)
    planted = w + 3 * edge * torch.outer(torch.ones(300) / 300**0.5, torch.ones(200) / 200**0.5)
    assert int((torch.linalg.svdvals(planted) > edge * 1.05).sum()) == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: power_law_tail(torch.ones(50)),
        lambda: power_law_tail(torch.arange(5.0)),
        lambda: power_law_tail(-torch.ones(50)),
        lambda: random_edge(0, 3, 1.0),
        lambda: random_edge(3, 3, -1.0),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match=r"values|sizes"):
        call()
