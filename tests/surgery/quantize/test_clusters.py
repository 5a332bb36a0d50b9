"""Sorting and clustering of channels."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.surgery.quantize.clusters import cut_in_runs, sort_and_cluster


def _cost(points, labels):
    return sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 5))
def test_runs_are_the_best_of_all(seed, places, runs):
    points = np.random.default_rng(seed).normal(size=(places, 3))
    found = cut_in_runs(points, runs)
    count = min(runs, places)
    assert list(np.unique(found)) == list(range(count))
    assert (np.diff(found) >= 0).all()
    best = min(
        _cost(points, np.searchsorted(cuts, np.arange(places), side="right"))
        for cuts in combinations(range(1, places), count - 1)
    )
    assert _cost(points, found) == pytest.approx(best, abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1, 2, 3]), st.sampled_from([(4, 4), (2, 3), (1, 1), (9, 9)]))
def test_orders_stay_in_their_places(seed, num_groups, groups):
    sizes = torch.rand(num_groups * 5 * 6, generator=torch.Generator().manual_seed(seed))
    found = sort_and_cluster(sizes, num_groups, 6, groups)
    heads = num_groups * 5
    assert sorted(found.heads.tolist()) == list(range(heads))
    assert torch.equal(found.heads // 5, torch.arange(heads) // 5)
    assert torch.equal(found.channels // 6, found.heads.repeat_interleave(6))
    assert torch.equal(found.channels.sort().values, torch.arange(heads * 6))
    assert bool((sizes[found.channels].view(-1, 6).diff(dim=1) >= 0).all())
    assert found.num_scales <= num_groups * groups[0] * groups[1]
    of_group = [set(part.tolist()) for part in found.scale_of.view(num_groups, -1)]
    assert sum(map(len, of_group)) == found.num_scales == len(set().union(*of_group))


def test_alike_heads_come_together():
    flat, steep = torch.ones(4), torch.tensor([0.0, 0.0, 0.0, 5.0])
    found = sort_and_cluster(torch.cat((flat, steep, 3 * flat, steep)), 1, 4, (2, 2))
    pairs = {frozenset(found.heads[:2].tolist()), frozenset(found.heads[2:].tolist())}
    assert pairs == {frozenset({0, 2}), frozenset({1, 3})}


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="whole number of heads"):
        sort_and_cluster(torch.ones(10), 1, 4)
    with pytest.raises(ValueError, match="does not divide the 3 heads"):
        sort_and_cluster(torch.ones(12), 2, 4)
    with pytest.raises(ValueError, match="groups="):
        sort_and_cluster(torch.ones(12), 1, 4, (0, 4))
    with pytest.raises(ValueError, match="not negative"):
        sort_and_cluster(torch.full((12,), float("nan")), 1, 4)
