import subprocess
import sys

import pytest

from gramian.lab.taxonomy import check_taxonomy, draw_taxonomy, leaves, open_leaf

TREE = {
    "numbers": {"whole": "builtins.int('7')", "parts": {"half": "fractions.Fraction(1, denominator=2)"}},
    "none": None,
}


def test_leaves_in_order():
    assert list(leaves(TREE)) == [
        (("numbers", "whole"), "builtins.int('7')"),
        (("numbers", "parts", "half"), "fractions.Fraction(1, denominator=2)"),
        (("none",), None),
    ]


def test_a_leaf_opens_with_its_arguments_and_with_others():
    assert open_leaf(TREE, "numbers", "whole") == 7
    assert open_leaf(TREE, "numbers", "parts", "half") == 0.5
    assert open_leaf(TREE, "numbers", "parts", "half", denominator=4) == 0.25


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("numbers", "odd"), "'odd' is not in numbers; there is whole, parts"),
        (("words",), "not in the taxonomy; there is numbers, none"),
        (("numbers",), "numbers is a branch; its leaves are whole, parts"),
        (("none",), "none has no implementation here yet"),
        (("numbers", "whole", "digit"), "it is a leaf"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(path, message):
    with pytest.raises(ValueError, match=message):
        open_leaf(TREE, *path)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "the taxonomy is empty"),
        ({"a": {"b": {}}}, "branch 'b' is empty"),
        ({"a": "not a call"}, "is not a call"),
        ({"a": "f(x)"}, "literal arguments"),
    ],
)
def test_trees_that_are_none_are_refused(tree, message):
    with pytest.raises(ValueError, match=message):
        check_taxonomy(tree)
    check_taxonomy(TREE)


def test_the_picture_names_every_leaf():
    figure = draw_taxonomy(TREE)
    assert {t.get_text() for t in figure.axes[0].texts} == {"numbers", "whole", "parts", "half", "none"}


def test_it_is_read_without_torch():
    code = "import gramian.lab.taxonomy, sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
