import sys

import numpy
import pytest

from gramian.data.environments import pixels
from gramian.lab import Missing

gymnasium = pytest.importorskip("gymnasium")


def test_every_state_of_a_lake_has_a_picture_of_its_own():
    environment = pixels.pixel_environment("FrozenLake-v1", is_slippery=False)
    frame, _ = environment.reset(seed=0)
    assert frame.shape == environment.observation_space.shape == (3, 12, 12)
    assert environment.observation_space.contains(frame)
    seen = {environment.observation(state).tobytes() for state in range(16)}
    assert len(seen) == 16
    moved, reward, *_ = environment.step(2)
    walker = numpy.argwhere((moved == numpy.array(pixels.WALKER)[:, None, None]).all(0))
    assert walker.min(0).tolist() == [0, 3]  # one cell to the right of the upper left one
    assert walker.max(0).tolist() == [2, 5]
    assert reward == 0


def test_the_picture_of_a_cart_moves_with_its_place_and_angle_but_not_with_speeds():
    still = pixels.draw_cart_pole(numpy.zeros(4))
    assert still.shape == (3, 32, 32)
    numpy.testing.assert_array_equal(still, still[:, :, ::-1])  # upright in the middle
    numpy.testing.assert_array_equal(pixels.draw_cart_pole(numpy.array([0.0, 3.0, 0.0, -2.0])), still)
    tilted = pixels.draw_cart_pole(numpy.array([0.0, 0.0, 0.2, 0.0]))
    mirror = pixels.draw_cart_pole(numpy.array([0.0, 0.0, -0.2, 0.0]))
    numpy.testing.assert_array_equal(tilted, mirror[:, :, ::-1])
    assert (tilted != still).any()
    right = pixels.draw_cart_pole(numpy.array([1.2, 0.0, 0.0, 0.0]))
    numpy.testing.assert_array_equal(right[:, :, 8:], still[:, :, :-8])  # 1.2 of 4.8 metres
    environment = pixels.pixel_environment("CartPole-v1")
    assert environment.reset(seed=0)[0].shape == (3, 32, 32)


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="choose one of"):
        pixels.pixel_environment("Pong-v5")
    with pytest.raises(ValueError, match=r"multiple"):
        pixels.draw_lake(numpy.array([[b"S", b"G"], [b"F", b"H"]]), 0, 7)
    with pytest.raises(ValueError, match="16 pixels"):
        pixels.draw_cart_pole(numpy.zeros(4), 8)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(Missing, match=r"pip install 'gramian\[control\]'"):
        pixels.pixel_environment("FrozenLake-v1")
