import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.signal.routes import inverse
from gramian.linalg.signal.scan_orders import SCAN_ORDERS, hilbert, scan_order


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([n for n in SCAN_ORDERS if n != "hilbert"]), height=st.integers(1, 9), width=st.integers(1, 9)
)
def test_every_sequence_is_a_permutation_that_its_inverse_undoes(name, height, width):
    for order in scan_order(name, height, width):
        assert order.sort().values.tolist() == list(range(height * width))
        assert torch.equal(order[inverse(order)], torch.arange(height * width))


def steps(order, width):
    places = torch.stack((order // width, order % width), -1)
    return places.diff(dim=0).abs()


@pytest.mark.parametrize("side", [1, 2, 4, 16])
def test_hilberts_curve_never_jumps_and_fills_squares_one_after_the_other(side):
    order = hilbert(side, side)
    assert order.sort().values.tolist() == list(range(side * side))
    assert (steps(order, side).sum(-1) == 1).all()
    if side > 1:
        quarter = order[: side * side // 4]
        assert (quarter // side).max() < side // 2
        assert (quarter % side).max() < side // 2


def test_continuous_orders_never_jump_and_a_zigzag_goes_to_neighbours():
    for order in scan_order("continuous", 5, 6):
        assert (steps(order, 6).sum(-1) == 1).all()
    for order in scan_order("zigzag", 5, 6):
        assert steps(order, 6).max() == 1


def test_the_zigzag_of_jpeg():
    assert scan_order("zigzag", 3, 3)[0].tolist() == [0, 1, 3, 6, 4, 2, 5, 7, 8]


def test_windows_gaps_and_diagonals_by_hand():
    assert scan_order("local", 2, 4)[0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert scan_order("atrous", 2, 4)[0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    omni = scan_order("omnidirectional", 2, 3).tolist()
    assert len(omni) == 8
    assert omni[4] == [0, 1, 3, 2, 4, 5]
    assert omni[6] == [2, 1, 5, 0, 4, 3]


@pytest.mark.parametrize("name", [n for n in SCAN_ORDERS if len(SCAN_ORDERS[n](4, 4)) > 1])
def test_orders_of_both_ways_come_with_their_reverse(name):
    orders = scan_order(name, 4, 4)
    assert torch.equal(orders[1::2], orders[::2].flip(1))


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'spiral' is not known; there are raster"):
        scan_order("spiral", 2, 2)
    with pytest.raises(ValueError, match="0 × 3"):
        scan_order("cross", 0, 3)
    for height, width in ((4, 8), (3, 3)):
        with pytest.raises(ValueError, match="power of two"):
            scan_order("hilbert", height, width)
