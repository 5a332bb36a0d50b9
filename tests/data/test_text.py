"""The passages are prose, long enough, different, and always the same."""

import pytest

from gramian.data import text


def test_passages_are_long_different_and_repeatable():
    found = text.passages(24)
    assert len(set(found)) == 24
    assert all(len(p.split()) >= 200 for p in found)
    assert found[:12] == text.passages()
    assert text.fingerprint(found) == text.fingerprint(text.passages(24))
    assert text.fingerprint(found) != text.fingerprint(found[::-1])


def test_passages_are_prose():
    for passage in text.passages(24):
        letters = sum(c.isalpha() or c.isspace() for c in passage)
        assert letters / len(passage) > 0.85
        assert not any(mark in passage for mark in ("::=", ">>>", "====", ".. "))
        assert passage[0].isupper()


def test_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"count is 10000; there are \d+ passages"):
        text.passages(10_000)
    with pytest.raises(ValueError, match="count is 0"):
        text.passages(0)


def test_the_fixed_text_is_the_one_that_figures_are_quoted_for():
    assert text.fingerprint([text.descriptions()]) == "c79256d42f86"
    assert len(text.descriptions()) == 12_272
