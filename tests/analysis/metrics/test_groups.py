import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.analysis.metrics.groups import group_accuracy, worst_group


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=3, max_size=30))
def test_it_is_the_mean_of_each_group(pairs):
    pairs = [*pairs, (True, 0), (False, 1), (True, 2)]
    right, groups = torch.tensor([p[0] for p in pairs]), torch.tensor([p[1] for p in pairs])
    found = group_accuracy(right, groups)
    for k in range(3):
        of_group = [p[0] for p in pairs if p[1] == k]
        assert float(found[k]) == pytest.approx(sum(of_group) / len(of_group), abs=1e-6)
    worst = worst_group(right, groups)
    assert worst.accuracy == float(found.min()) == float(found[worst.group])


def test_what_cannot_be_is_refused():
    right, groups = torch.tensor([True, False]), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="needs a sample"):
        group_accuracy(right, groups)
    with pytest.raises(ValueError, match="needs a sample"):
        group_accuracy(right, torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match="needs a sample"):
        group_accuracy(right, torch.tensor([0, 1]), 1)
    with pytest.raises(ValueError, match="groups 0"):
        worst_group(right, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="groups 0"):
        worst_group(right[:0], groups[:0])
