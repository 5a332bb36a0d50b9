import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.data.synthetic import longtail


@settings(max_examples=20)
@given(ratio=st.floats(1, 100), classes=st.integers(2, 20))
def test_counts_fall_from_the_largest_to_its_share(ratio, classes):
    counts = longtail.exponential_counts(500, ratio, classes)
    assert counts[0] == 500
    assert counts == sorted(counts, reverse=True)
    assert abs(counts[-1] - 500 / ratio) <= 1


def test_rows_have_the_counts_and_repeat_with_the_seed():
    labels = torch.arange(5).repeat(40)
    counts = longtail.exponential_counts(40, 10, 5)
    rows = [longtail.long_tailed_rows(labels, counts, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.bincount(labels[rows[0]]).tolist() == counts
    assert len(rows[0].unique()) == sum(counts)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        longtail.exponential_counts(100, 10, 1)
    with pytest.raises(ValueError, match="ratio"):
        longtail.exponential_counts(100, 0.5, 3)
    with pytest.raises(ValueError, match="without a sample"):
        longtail.exponential_counts(10, 50, 3)
    with pytest.raises(ValueError, match="class 1 has 2 rows"):
        longtail.long_tailed_rows(torch.tensor([0, 0, 1, 1]), [2, 3])
