"""Closed forms against all subsets, and draws against closed forms."""

import itertools

import pytest
import torch

from gramian.science.feature_framework import Framework, miss


@pytest.mark.parametrize(("t", "c", "n"), [(5, 2, 2), (6, 3, 1), (4, 4, 1), (4, 0, 3), (5, 3, 3), (3, 1, 0)])
def test_misses_by_counting_subsets(t, c, n):
    subsets = list(itertools.combinations(range(t), n))
    assert miss(t, c, n) == pytest.approx(sum(all(f >= c for f in s) for s in subsets) / len(subsets))


def test_expectations_by_all_points_and_pairs_of_networks():
    t, n, c = 5, 2, 2
    right, agree, count = 0.0, 0.0, 0
    for point in itertools.combinations(range(t), n):
        for one in itertools.combinations(range(t), c):
            for two in itertools.combinations(range(t), c):
                knows = [bool(set(point) & set(net)) for net in (one, two)]
                right += 1.0 if knows[0] else 0.5
                agree += 1.0 if all(knows) else 0.5
                count += 1
    frame = Framework((t, 3), (n, 1), (c, 3))
    assert frame.accuracy == pytest.approx(right / count)
    assert frame.agreement == pytest.approx(agree / count)


def test_draws_come_near_and_a_seed_repeats():
    frame = Framework((6, 12), (2, 3), (2, 1), 0.6)
    drawn = frame.sample(40_000, torch.Generator().manual_seed(1))
    assert drawn.accuracy == pytest.approx(frame.accuracy, abs=0.01)
    assert drawn.agreement == pytest.approx(frame.agreement, abs=0.012)
    assert torch.equal(drawn.first, frame.sample(40_000, torch.Generator().manual_seed(1)).first)


def test_equality_where_all_or_nothing_is_known():
    assert Framework((4, 4), (1, 1), (4, 0), 0.3).accuracy == Framework((4, 4), (1, 1), (4, 0), 0.3).agreement
    half = Framework((2, 2), (1, 1), (1, 1))
    assert half.accuracy - half.agreement == 0.125


def test_what_is_no_framework_is_refused():
    with pytest.raises(ValueError, match="neither exceeds"):
        Framework((3, 3), (4, 1), (1, 1))
    with pytest.raises(ValueError, match="neither exceeds"):
        Framework((3, 3), (1, 1), (1, 4))
    with pytest.raises(ValueError, match="probability"):
        Framework((3, 3), (1, 1), (1, 1), 1.5)
    with pytest.raises(ValueError, match="draws=0"):
        Framework((3, 3), (1, 1), (1, 1)).sample(0)
