import pytest

from gramian.data.sentences import sentences


def test_sentences_are_different_whole_and_always_the_same():
    found = sentences(72)
    assert len(set(found)) == 72
    assert all(6 <= len(s.split()) <= 60 for s in found)
    assert sentences(48, skip=24) == found[24:]


def test_too_many_are_refused():
    for count, skip in ((0, 0), (5, -1), (100_000, 0)):
        with pytest.raises(ValueError, match="sentences"):
            sentences(count, skip)
