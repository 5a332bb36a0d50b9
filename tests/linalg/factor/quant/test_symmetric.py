"""Symmetric codes with fixed scales."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant import symmetric


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 8), st.integers(0, 50), st.integers(1, 30))
def test_packing_is_exact(bits, seed, count):
    limit = symmetric.largest_code(bits)
    codes = torch.randint(-limit, limit + 1, (2, count), generator=torch.Generator().manual_seed(seed))
    codes = codes.to(torch.int8)
    packed = symmetric.pack_codes(codes, bits)
    assert torch.equal(symmetric.unpack_codes(packed, bits, (2, count)), codes)
    assert len(packed) == (2 * count if bits == 8 else -(-2 * count // 8) * bits)


@pytest.mark.parametrize("group", [None, 4, 5, 100])
def test_rounding_errs_by_half_a_step(group):
    weight = torch.randn(6, 13, generator=torch.Generator().manual_seed(0))
    codes, scales = symmetric.quantize_matrix(weight, 4, group)
    wide = symmetric.spread_scales(scales, 13, group)
    assert scales.shape == ((1, 1) if group is None else (6, -(-13 // group)))
    assert bool(((codes * wide - weight).abs() <= wide / 2 + 1e-6).all())
    assert int(codes.abs().max()) == 7


def test_zeros_stay_zeros():
    codes, scales = symmetric.quantize_matrix(torch.zeros(2, 3), 8, 2)
    assert not codes.any()
    assert bool((scales == 1).all())


def test_what_is_too_large_is_cut():
    assert symmetric.to_codes(torch.tensor([1e9, -1e9]), torch.tensor(0.1)).tolist() == [127, -127]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="bits=9"):
        symmetric.largest_code(9)
    with pytest.raises(ValueError, match="NaN"):
        symmetric.to_codes(torch.tensor([float("nan")]), torch.tensor(1.0))
    with pytest.raises(ValueError, match="NaN"):
        symmetric.quantize_matrix(torch.full((2, 2), float("inf")))
    with pytest.raises(ValueError, match="group=0"):
        symmetric.quantize_matrix(torch.ones(2, 2), 8, 0)
