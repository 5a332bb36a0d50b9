import math

import numpy
import pytest
import torch

from gramian.lab import Card, Check


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        ({"below": 1.0}, 1.0, 1.01),
        ({"above": 1.0}, 1.0, 0.99),
        ({"between": (0.0, 1.0)}, 0.5, 1.5),
        ({"equals": 3}, 3, 4),
    ],
)
def test_a_check_holds_inside_its_bound_and_fails_outside(bound, inside, outside):
    assert Check.of("claim", inside, **bound).ok
    assert not Check.of("claim", outside, **bound).ok


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_never_holds(value):
    for bound in ({"below": 1e300}, {"above": -1e300}, {"between": (-1e300, 1e300)}):
        check = Check.of("claim", value, **bound)
        assert not check.ok
        assert isinstance(check.as_dict()["measured"], str)


def test_tensors_arrays_and_sets_are_measured():
    assert Check.of("claim", torch.tensor(2.0), below=3).measured == 2.0
    assert Check.of("claim", numpy.float32(2.0), below=3).ok
    assert Check.of("claim", {3, 1, 2}, equals={1, 2, 3}).ok
    assert not Check.of("claim", [1, 2], equals=(2, 1)).ok


def test_bounds_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match="exactly one"):
        Check.of("claim", 1)
    with pytest.raises(ValueError, match="exactly one"):
        Check.of("claim", 1, below=1, above=0)
    with pytest.raises(ValueError, match="no value can fail"):
        Check.of("claim", 1, below=math.inf)
    with pytest.raises(TypeError, match="not a number"):
        Check.of("claim", "many", below=1)


def test_a_card_says_what_is_wrong_with_it():
    good = {"title": "T", "row": 1, "year": 2020, "kind": "method", "idea": "I"}
    assert Card(**good).needs == ()
    with pytest.raises(ValueError, match="kind='idea'"):
        Card(**good | {"kind": "idea"})
    with pytest.raises((ValueError, TypeError), match="keywords"):
        Card(**good, keywords="one")
    with pytest.raises(ValueError, match="dotted name"):
        Card(**good, api=("torch.nn.Linear",))
