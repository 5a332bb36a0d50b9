import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.information.adaptive import ebab_codes, mi_ebab, mi_kde


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), bins=st.integers(2, 12))
def test_increasing_maps_keep_the_codes(seed, bins):
    x = normal(40, 3, seed=seed)
    codes = ebab_codes(x, bins)
    assert torch.equal(ebab_codes(1000 * x, bins), codes)
    assert torch.equal(ebab_codes(x.exp(), bins), codes)
    assert torch.equal(
        ebab_codes(x[:, [2, 0, 1]], bins)[:, None] == ebab_codes(x[:, [2, 0, 1]], bins), codes[:, None] == codes
    )


def test_bins_hold_equally_many_distinct_values():
    x = normal(60, 1)
    assert torch.bincount(ebab_codes(x, 6)).tolist() == [10] * 6
    relu = torch.cat((torch.zeros(40, 1, dtype=torch.float64), x.abs()))
    assert sorted(torch.bincount(ebab_codes(relu, 4, lowest=0.0)).tolist()) == [20, 20, 20, 40]
    with_zero_shared = torch.bincount(ebab_codes(relu, 4)).tolist()
    assert max(with_zero_shared) > 50  # without its own bin zero shares one
    assert len(torch.bincount(ebab_codes(torch.zeros(5, 2, dtype=torch.float64), 4, lowest=0.0))) == 1


def test_information_of_labels_against_counting():
    x = torch.arange(6.0)[:, None].repeat(10, 1)
    labels = torch.arange(60) % 2
    found = mi_ebab(x, labels, bins=6)
    assert found.input == pytest.approx(math.log2(6))
    assert found.label == pytest.approx(1.0)
    assert mi_ebab(x, torch.arange(60) // 30, bins=6).label == pytest.approx(0.0, abs=1e-12)


def test_noise_bounds_against_loops():
    x, labels = normal(12, 2), torch.arange(12) % 3
    variance = 0.3

    def bits(rows, spread):
        total = 0.0
        for i in rows:
            total -= math.log2(
                sum(math.exp(-float((x[i] - x[j]).square().sum()) / 2 / spread) for j in rows) / len(rows)
            )
        return total / len(rows)

    for bound, spread in (("upper", variance), ("lower", 4 * variance)):
        found = mi_kde(x, labels, variance, bound=bound)
        own = sum(bits([i for i in range(12) if i % 3 == y], spread) for y in range(3)) / 3
        assert found.input == pytest.approx(bits(range(12), spread))
        assert found.label == pytest.approx(bits(range(12), spread) - own)
    largest = float(x.abs().max())
    assert mi_kde(x, labels).input == pytest.approx(mi_kde(x, labels, 1e-3 * largest**2).input)
    assert mi_kde(x.float(), labels).input == pytest.approx(mi_kde(x, labels).input, abs=1e-4)


def test_what_they_refuse():
    x, labels = normal(10, 2), torch.zeros(10, dtype=torch.long)
    with pytest.raises(ValueError, match="two at least"):
        mi_ebab(x[:1], labels[:1])
    with pytest.raises(ValueError, match="labels of"):
        mi_kde(x, labels[:5])
    with pytest.raises(ValueError, match="bins=1"):
        mi_ebab(x, labels, bins=1)
    with pytest.raises(ValueError, match="positive"):
        mi_kde(x, labels, noise=0.0)
    with pytest.raises(ValueError, match="positive"):
        mi_kde(0 * x, labels)
    with pytest.raises(ValueError, match="NaN"):
        mi_kde(x / 0, labels)
