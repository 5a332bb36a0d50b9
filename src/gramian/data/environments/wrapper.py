"""An environment of gymnasium whose observations are pictures. Importing this needs gymnasium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy

__all__ = ["Pixels"]


class Pixels(gymnasium.ObservationWrapper):
    """Shows a picture of the state in the state's place.

    Args:
        environment: what is looked at.
        draw: (the environment itself, its state) → a picture, (channels, height, width) in 0 … 255.
    """

    def __init__(self, environment: gymnasium.Env, draw: Callable[[Any, Any], numpy.ndarray]) -> None:
        super().__init__(environment)
        self.draw = draw
        state, _ = environment.reset(seed=0)
        self.observation_space = gymnasium.spaces.Box(0, 255, self.observation(state).shape, numpy.uint8)

    def observation(self, observation: Any) -> numpy.ndarray:
        """The picture of a state."""
        return self.draw(self.env.unwrapped, observation)
