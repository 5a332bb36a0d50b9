"""Associative recall against a dictionary."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.data.synthetic import IGNORE, associative_recall


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 12), st.integers(0, 3), st.integers(0, 4), st.integers(2, 9), st.integers(0, 99))
def test_every_answer_is_in_the_dictionary(pairs, fewer, more_keys, values, seed):
    queries, keys = max(1, pairs - fewer), pairs + more_keys
    words = associative_recall(4, pairs, queries, keys, values, generator(seed))
    assert (words.letters, words.classes) == (keys + values, values)
    assert words.tokens.shape == words.targets.shape == (4, 2 * pairs + queries)
    for tokens, targets in zip(words.tokens.tolist(), words.targets.tolist(), strict=True):
        memory = dict(zip(tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
        assert len(memory) == pairs, "keys of a sequence are different"
        assert all(k < keys for k in memory)
        assert all(keys <= v < keys + values for v in memory.values())
        asked = tokens[2 * pairs :]
        assert len(set(asked)) == queries
        assert targets[: 2 * pairs] == [IGNORE] * (2 * pairs)
        assert targets[2 * pairs :] == [memory[k] - keys for k in asked]


def test_draws_are_uniform_and_seeded():
    words = associative_recall(4000, 4, 2, 8, 5, generator())
    again = associative_recall(4000, 4, 2, 8, 5, generator())
    assert torch.equal(words.tokens, again.tokens)
    assert not torch.equal(words.tokens, associative_recall(4000, 4, 2, 8, 5, generator(1)).tokens)
    for column, classes in ((0, 8), (2, 8), (8, 8)):
        share = torch.bincount(words.tokens[:, column], minlength=classes) / 4000
        assert float((share - 1 / classes).abs().max()) < 0.025  # five standard deviations
    share = torch.bincount(words.targets[:, 8], minlength=5) / 4000
    assert float((share - 0.2).abs().max()) < 0.032
    # the place of the first key that is asked
    place = (words.tokens[:, 0:8:2] == words.tokens[:, 8:9]).float().mean(0)
    assert float((place - 0.25).abs().max()) < 0.035


def test_bad_sizes_are_refused():
    for settings, message in (
        ({"samples": 0}, "samples=0"),
        ({"pairs": 65}, "pairs=65: must be at least 1 and at most keys=64"),
        ({"pairs": 0}, "pairs=0"),
        ({"pairs": 4, "queries": 5}, "queries=5: must be at least 1 and at most pairs=4"),
        ({"queries": 0}, "queries=0"),
        ({"values": 1}, "values=1"),
    ):
        with pytest.raises(ValueError, match=message):
            associative_recall(**({"samples": 3} | settings))
