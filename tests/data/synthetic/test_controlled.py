import numpy as np
import pytest

from gramian.data.synthetic.controlled import controlled_records


def test_the_target_follows_the_path():
    records = controlled_records(4, 8, 3, np.random.default_rng(0), linear=True)
    assert records.truth.shape == (4, 401)
    assert records.truth[:, 0] == pytest.approx(1.0)
    for t, x, at, y, truth in zip(records.times, records.paths, records.y_times, records.y, records.truth, strict=True):
        assert x.shape == (8, 2)
        assert (np.diff(t) > 0).all()
        np.testing.assert_allclose(y, np.interp(at, records.fine, truth))
    again = controlled_records(4, 8, 3, np.random.default_rng(0), linear=True, noise=0.1)
    np.testing.assert_array_equal(again.paths[0], records.paths[0])


def test_a_path_that_does_not_move_leaves_the_target():
    records = controlled_records(2, 4, 2, np.random.default_rng(0), size=0.0)
    assert records.truth == pytest.approx(np.ones((2, 401)))


def test_impossible_records_are_refused():
    with pytest.raises(ValueError, match="at least"):
        controlled_records(2, 1, 3, np.random.default_rng(0))
