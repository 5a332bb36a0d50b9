import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor import sparse_nm


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([(1, 2), (2, 4), (4, 4), (3, 8)]), st.integers(0, 1))
def test_each_group_keeps_its_largest(seed, pattern, dim):
    kept, group = pattern
    w = normal(8, 16, seed=seed)
    mask = sparse_nm.nm_mask(w, kept, group, dim)
    lines, chosen = (w, mask) if dim == 1 else (w.T, mask.T)
    for values, ones in zip(lines.reshape(-1, group), chosen.reshape(-1, group), strict=True):
        assert int(ones.sum()) == kept
        assert values[ones].abs().min() >= values.abs().sort(descending=True).values[kept - 1]


def test_equal_magnitudes_keep_the_first_and_exactly_as_many():
    assert sparse_nm.nm_mask(torch.zeros(2, 4), 2, 4).tolist() == [[True, True, False, False]] * 2


def test_backward_mask_permutes_and_comes_back():
    w, order = normal(8, 3), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    mask = sparse_nm.backward_mask(w, 1, 4, order)
    assert mask[order].view(2, 4, 3).sum(1).eq(1).all()
    assert torch.equal(sparse_nm.backward_mask(w, 1, 4, torch.arange(8)), sparse_nm.backward_mask(w, 1, 4))


def test_more_candidates_never_retain_less_and_the_share_is_right():
    w, shares = normal(16, 32), []
    for candidates in (1, 5, 50):
        order, share = sparse_nm.best_permutation(w, 2, 4, candidates, torch.Generator().manual_seed(3))
        forward = sparse_nm.nm_mask(w, 2, 4)
        both = forward & sparse_nm.backward_mask(w * forward, 2, 4, order)
        assert float(both.sum()) / float(forward.sum()) == pytest.approx(share)
        shares.append(share)
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


@pytest.mark.parametrize(("pattern", "value"), [((2, 4), 0.8125), ((1, 4), 0.6836), ((1, 16), 0.6439), ((3, 3), 1.0)])
def test_expected_share(pattern, value):
    assert sparse_nm.expected_retained(*pattern) == pytest.approx(value, abs=5e-5)


def test_the_transposable_mask_is_the_best_one():
    w = normal(4, 4, seed=5).abs()
    best = 0.0
    for rows in itertools.product(itertools.combinations(range(4), 2), repeat=4):
        if all(sum(c in row for row in rows) == 2 for c in range(4)):
            best = max(best, sum(float(w[r, c]) for r, row in enumerate(rows) for c in row))
    mask = sparse_nm.transposable_mask(w, 2, 4)
    assert float((w * mask).sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(("kept", "group"), [(1, 2), (2, 4), (2, 8), (3, 8)])
def test_a_transposable_mask_fits_both_ways(kept, group):
    mask = sparse_nm.transposable_mask(normal(16, 32), kept, group)
    assert mask.view(16, -1, group).sum(2).eq(kept).all()
    assert mask.T.reshape(32, -1, group).sum(2).eq(kept).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse_nm.nm_mask(normal(4, 4), 5, 4), "no pattern"),
        (lambda: sparse_nm.nm_mask(normal(4, 4), 0, 4), "no pattern"),
        (lambda: sparse_nm.nm_mask(normal(4, 6), 2, 4), "pad it with 2 zeros"),
        (lambda: sparse_nm.nm_mask(normal(4, 4), 2, 4, 2), "dim"),
        (lambda: sparse_nm.nm_mask(torch.full((4, 4), torch.nan), 2, 4), "NaN"),
        (lambda: sparse_nm.best_permutation(normal(4, 4), 2, 4, 0), "candidates"),
        (lambda: sparse_nm.best_permutation(normal(6, 4), 2, 4, 1), "outputs"),
        (lambda: sparse_nm.backward_mask(normal(4, 4), 2, 4, torch.zeros(4, dtype=torch.long)), "permutation"),
        (lambda: sparse_nm.transposable_mask(torch.full((4, 4), torch.nan), 2, 4), "NaN"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
