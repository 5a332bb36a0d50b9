import pytest
import torch

from gramian import data
from gramian.models.series import published


@pytest.mark.parametrize("cell", sorted(published.PUBLISHED))
def test_every_cell_builds_and_forecasts(cell):
    recipe = published.PUBLISHED[cell]
    variates = 1 if recipe.univariate else 3
    rows = torch.randn(900, variates, generator=torch.Generator().manual_seed(0)).cumsum(0)
    model = published._build(recipe, rows, 0).eval()
    x = rows[: recipe.look_back][None]
    inputs = (x, torch.zeros(1, recipe.look_back, 4)) if recipe.calendar else (x,)
    with torch.no_grad():
        assert model(*inputs).shape == (1, recipe.horizon, variates)
    assert recipe.source
    assert recipe.mse is None or 0 < recipe.mse < 1


@pytest.mark.data
def test_the_windows_are_the_literatures():
    if not data.is_here("etth1"):
        pytest.skip("gramian data add etth1 FILE")
    parts, rows = published._windows("etth1", published.PUBLISHED["s-mamba", "etth1"])
    assert [len(p[0]) for p in parts] == [8449, 2785, 2785]
    assert rows.shape == (8640, 7)
    past, marks, _ = parts[1]
    # the calendar goes with the rows: the first feature is the hour, and the file starts at midnight
    assert float(marks[0, 0, 0]) == pytest.approx(((8640 - 96) % 24) / 23 - 0.5)
    assert past.shape == (2785, 96, 7)
    oil, _ = published._windows("etth1", published.PUBLISHED["spacetime", "etth1"])
    assert oil[2][0].shape == (2785, 336, 1)


@pytest.mark.data
def test_a_few_steps_run_and_leave_the_random_state(monkeypatch):
    if not data.is_here("exchange_rate"):
        pytest.skip("gramian data add exchange_rate FILE")
    cell = ("s-mamba", "exchange_rate")
    size = {"channels": 8, "state_size": 2, "layers": 1}
    small = published.Recipe(**{**published.PUBLISHED[cell].__dict__, "size": size})
    monkeypatch.setitem(published.PUBLISHED, cell, small)
    state = torch.get_rng_state()
    first, again, more = (published.reproduce(*cell, steps=steps, lr=1e-2) for steps in (2, 2, 20))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert 0 < more.mse < first.mse


def test_an_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="no published cell"):
        published.reproduce("s-mamba", "weather")
