"""Taking tokens away, on embeddings whose answer is known."""

import pytest
import torch

from gramian.analysis.explain.token_removal import removal_curve


def count(ids):
    """How often each of five words occurs, without special tokens 0."""
    return torch.bincount(ids[ids > 0], minlength=6)[1:].double()


ONE, TWO = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([0, 1, 4, 5, 0])


def test_the_shared_word_first_leaves_nothing_alike_and_last_leaves_all():
    table = torch.zeros(5, 5)
    table[1, 1] = 1  # word 1 stands at place 1 in both
    hot = removal_curve(count, ONE, TWO, table)
    cold = removal_curve(count, ONE, TWO, table, hottest_first=False)
    assert hot[0] == cold[0] == pytest.approx(1 / 3)
    assert hot[1:].tolist() == [0, 0]
    assert cold.tolist() == pytest.approx([1 / 3, 1 / 2, 1])


def test_texts_of_different_lengths_go_on_until_one_token_is_left_in_each():
    long = torch.tensor([0, 1, 2, 3, 4, 5, 0])
    assert len(removal_curve(count, ONE, long, torch.rand(5, 7))) == 1 + 4


@pytest.mark.parametrize(
    ("table", "ids", "match"),
    [
        (torch.zeros(4, 5), ONE, "for texts of"),
        (torch.full((5, 5), torch.nan), ONE, "NaN"),
        (torch.zeros(2, 5), torch.tensor([0, 0]), "special"),
    ],
)
def test_bad_input(table, ids, match):
    with pytest.raises((ValueError, TypeError), match=match + "|type"):
        removal_curve(count, ids, TWO, table)
