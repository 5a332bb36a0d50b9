import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.analysis.shortcut.reliance import probe_grid, reliance, shortcut_bias


def test_the_ends_and_the_middle():
    grid = probe_grid(10, 2)
    assert reliance(grid[:, 0], grid) == 0.5
    assert reliance(-grid[:, 0], grid) == -0.5
    assert reliance(grid[:, 1], grid) == -0.5
    assert reliance(grid.sum(1), grid) == 0
    assert reliance(torch.ones(len(grid), dtype=torch.float64), grid) == 0


@given(st.floats(-3, 3), st.floats(0.1, 100))
def test_scale_does_not_matter_and_changing_the_features_places_changes_the_sign(angle, scale):
    grid = probe_grid(8)
    weights = torch.tensor([angle, 1.0], dtype=torch.float64)
    first = reliance(grid @ weights, grid)
    assert reliance(scale * (grid @ weights), grid) == first
    assert reliance(grid.flip(1) @ weights, grid) == pytest.approx(-first)


def test_it_counts_by_hand():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 2.0], [-2.0, -1.0]])
    # only the second and third probe tell the features apart: with the shortcut, then with the core
    assert reliance(torch.tensor([1.0, 1.0, 1.0, 1.0]), z) == pytest.approx((1 - 1) / 4)
    assert reliance(torch.tensor([1.0, 1.0, -1.0, 1.0]), z) == pytest.approx(2 / 4)


def test_the_bias_is_taken_from_the_optimum():
    assert shortcut_bias(lambda z: z[:, 0], lambda z: z[:, 1]) == 1
    assert shortcut_bias(lambda z: z.sum(1), lambda z: z.sum(1)) == 0


def test_what_cannot_be_is_refused():
    grid = probe_grid(4)
    with pytest.raises(ValueError, match="even"):
        probe_grid(5)
    with pytest.raises(ValueError, match="reach"):
        probe_grid(4, 0)
    with pytest.raises(ValueError, match="finite"):
        reliance(torch.full((16,), float("nan"), dtype=torch.float64), grid)
    with pytest.raises(ValueError, match="at least one"):
        reliance(torch.zeros(0), torch.zeros(0, 2))
