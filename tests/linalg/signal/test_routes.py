"""Orders through a grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.signal.routes import inverse, snake


@given(height=st.integers(1, 6), width=st.integers(1, 6), columns=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_snake_visits_each_cell_once_and_steps_to_a_neighbour(height, width, columns):
    order = snake(height, width, columns)
    assert sorted(order.tolist()) == list(range(height * width))
    rows, places = order // width, order % width
    steps = (rows[1:] - rows[:-1]).abs() + (places[1:] - places[:-1]).abs()
    assert bool((steps == 1).all())
    if min(height, width) > 1:  # the second cell says along what it goes
        assert int(order[1]) == (width if columns else 1)
    assert torch.equal(order[inverse(order)], torch.arange(height * width))


def test_bad_orders_are_refused():
    with pytest.raises(ValueError, match="0 × 3"):
        snake(0, 3)
    with pytest.raises(ValueError, match="once"):
        inverse(torch.tensor([0, 0, 2]))
