import numpy as np
import pytest
import torch

from gramian.data import series
from gramian.data.windows import split_series, windows


def test_parts_follow_each_other_and_are_standardized_by_the_first():
    values = np.random.default_rng(0).normal(3, 2, (100, 2))
    parts = split_series(values, 5, (0.6, 0.2, 0.2))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (60, 25, 25)
    assert torch.allclose(parts.train.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(parts.train.std(0, unbiased=False), torch.ones(2), atol=1e-6)
    back = parts.test.double() * parts.std + parts.mean
    assert np.allclose(back.numpy(), values[75:], atol=1e-5)
    changed = values.copy()
    changed[60:] = 1e3
    assert torch.equal(split_series(changed, 5, (0.6, 0.2, 0.2)).train, parts.train)


def test_the_windows_of_the_published_tables_have_their_number():
    parts = split_series(np.zeros((17420, 7)) + np.arange(17420.0)[:, None], 96, (8640, 2880, 2880))
    counts = [len(windows(part, 96, 96)[0]) for part in (parts.train, parts.validation, parts.test)]
    assert counts == [8449, 2785, 2785]


def test_windows_are_the_rows_they_should_be_and_share_memory():
    values = torch.arange(24.0).view(12, 2)
    past, future = windows(values, 3, 2, stride=4)
    assert past.shape == (2, 3, 2)
    assert torch.equal(past[1], values[4:7])
    assert torch.equal(future[1], values[7:9])
    assert past.data_ptr() == values.data_ptr()


@pytest.mark.parametrize(
    ("parts", "message"),
    [((0.5, 0.5), "three"), ((0.5, 0.4, 0.3), "more than the whole"), ((50, 40, 30), "cannot give"),
     ((10, 0.5, 5), "all whole"), ((0.0, 0.5, 0.5), "positive")],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        split_series(np.random.default_rng(0).normal(size=(100, 1)), 4, parts)


def test_gaps_and_short_series_are_refused():
    values = np.ones((30, 1))
    values[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        split_series(values, 4)
    with pytest.raises(ValueError, match="no window"):
        windows(torch.zeros(5, 1), 4, 2)
    with pytest.raises(ValueError, match="at least 1"):
        windows(torch.zeros(5, 1), 4, 0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "shape", "calendar"),
    [
        ("elnino", (732, 1), None),
        ("sunspots", (309, 1), None),
        ("airline", (144, 1), None),
        ("uschange", (187, 5), None),
        ("macrodata", (202, 10), None),
        ("etth1", (17420, 7), (17420, 4)),
        ("exchange_rate", (7588, 8), (7588, 4)),
    ],
)
def test_named_series_are_finite_and_of_their_shape(name, shape, calendar):
    from gramian import data

    if not data.is_here(name):
        pytest.skip(f"gramian data fetch {name}")
    found = series.named_series(name)
    assert found.values.shape == shape
    assert np.isfinite(found.values).all()
    assert (None if found.calendar is None else found.calendar.shape) == calendar
    assert len(found.columns) == shape[1]
    if found.calendar is not None:
        assert abs(found.calendar).max() <= 0.51  # a leap year has one day more


def test_an_unknown_series_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="elnino"):
        series.named_series("weather")
