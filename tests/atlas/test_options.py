from typing import Literal

import pytest

from gramian.atlas.errors import UserError
from gramian.atlas.find.options import convert


def experiment(
    run,
    *,
    sizes: tuple[int, ...] = (1,),
    rate: float = 0.1,
    on: bool = True,
    mode: Literal["a", "b"] = "a",
    top: int | None = None,
) -> None: ...


def test_values_are_converted_by_their_types():
    settings = ["sizes=16,64", "rate=1e-3", "on=no", "mode=b", "top=none"]
    assert convert(experiment, settings) == {"sizes": (16, 64), "rate": 1e-3, "on": False, "mode": "b", "top": None}
    assert convert(experiment, ["top=3"]) == {"top": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sizes=16,x", "'x' is not a whole number; sizes is whole numbers separated by commas"),
        ("rate=fast", "not a number"),
        ("on=maybe", "neither true nor false"),
        ("mode=c", "one of a, b"),
        ("size=3", "did you mean sizes"),
        ("sizes", "name=value"),
        ("sizes=", "no value"),
    ],
)
def test_what_cannot_be_converted_is_explained(setting, message):
    with pytest.raises(UserError, match=message):
        convert(experiment, [setting])


def test_an_experiment_without_options_says_so():
    with pytest.raises(UserError, match="there are no options"):
        convert(lambda run: None, ["a=1"])
