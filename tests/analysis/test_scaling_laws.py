"""Laws are recovered from points of their shape, and refuse points that are not."""

import numpy
import pytest

from gramian.analysis.scaling_laws import fit_law

AMOUNT = numpy.geomspace(1e9, 3e11, 30)


def test_exact_points_give_exact_parameters_in_any_unit():
    rising = fit_law(AMOUNT, 0.4 - 2e3 / AMOUNT**0.45, "silu")
    assert rising.parameters["limit"] == pytest.approx(0.4, rel=1e-6)
    assert rising.parameters["c"] == pytest.approx(2e3, rel=1e-3)
    falling = fit_law(AMOUNT, 0.08 + numpy.exp(-0.5 - 1e-4 * AMOUNT**0.4), "relu")
    assert falling.parameters["a"] == pytest.approx(0.4, rel=1e-3)
    assert falling.residual < 1e-8
    assert numpy.allclose(falling(AMOUNT), 0.08 + numpy.exp(-0.5 - 1e-4 * AMOUNT**0.4))


def test_intervals_cover_what_was_planted():
    rng = numpy.random.default_rng(0)
    noisy = (0.4 - 2e3 / AMOUNT**0.45) * (1 + 0.005 * rng.standard_normal(30))
    low, high = fit_law(AMOUNT, noisy, "silu", resamples=30).intervals["limit"]
    assert low < 0.4 < high
    assert high - low < 0.05


@pytest.mark.parametrize(
    ("amount", "active", "kind", "message"),
    [
        (AMOUNT[:2], AMOUNT[:2], "silu", "as many points"),
        (AMOUNT, AMOUNT[:5], "silu", "points"),
        (-AMOUNT, AMOUNT, "silu", "positive"),
        (AMOUNT, AMOUNT * numpy.nan, "relu", "finite"),
        (AMOUNT, AMOUNT, "gelu", "kind"),
    ],
)
def test_bad_points(amount, active, kind, message):
    with pytest.raises((ValueError, TypeError), match=rf"{message}|type"):
        fit_law(amount, active, kind)
