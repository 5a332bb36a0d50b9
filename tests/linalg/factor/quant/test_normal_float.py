import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor.quant import normal_float as nf
from gramian.linalg.factor.quant.normal_float import BlockFormat

NF4 = [-1, -.6962, -.5251, -.3949, -.2844, -.1848, -.0911, 0]  # fmt: skip
NF4 += [.0796, .1609, .2461, .3379, .4407, .5626, .7230, 1]  # fmt: skip


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_codebook_of_four_bits_is_nf4():
    assert torch.allclose(nf.normal_float(4), torch.tensor(NF4), atol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_codebooks_ascend_from_minus_one_to_one_through_zero(bits):
    values = nf.normal_float(bits)
    assert len(values) == 2**bits
    assert values.diff().min() > 0
    assert values[0] == -1
    assert values[-1] == 1
    assert (values == 0).sum() == 1


@settings(max_examples=20)
@given(st.integers(1, 8), st.integers(0, 50), st.integers(0, 100))
def test_packing_is_exact(bits, count, seed):
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    packed = nf.pack_bits(codes, bits)
    assert len(packed) == (count if bits == 8 else -(-count // 8) * bits)
    assert torch.equal(nf.unpack_bits(packed, bits, count), codes)


@pytest.mark.parametrize("scale_bits", [None, 2, 3, 4, 8])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_blocks_are_what_rounding_gives_and_as_small_as_the_formula(bits, scale_bits):
    fmt = BlockFormat(bits, 16, scale_bits, 8, "bfloat16")
    x = normal(32, 64)
    packed = nf.quantize_blocks(x, fmt)
    back = nf.dequantize_blocks(packed, (32, 64), fmt)
    assert torch.equal(back, nf.round_blocks(x, fmt))
    offset = 0 if scale_bits is None else 4
    assert packed.nbytes == fmt.bits_per_number * x.numel() / 8 + offset


def test_codes_are_the_nearest_of_the_codebook():
    fmt = BlockFormat(3, 32, None)
    x = normal(4, 32)
    scales = x.abs().amax(1, keepdim=True)
    nearest = (x[..., None] - scales[..., None] * nf.normal_float(3)).abs().amin(-1)
    assert torch.allclose((nf.round_blocks(x, fmt) - x).abs(), nearest, atol=1e-6)


def test_more_bits_err_less_and_quantized_scales_hardly_more():
    x = normal(64, 64)
    errors = [float((nf.round_blocks(x, BlockFormat(b, 64, None)) - x).norm() / x.norm()) for b in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.11
    double = float((nf.round_blocks(x, BlockFormat(4, 64, 8, 64)) - x).norm() / x.norm())
    assert double < 1.02 * errors[2]


def test_blocks_of_zeros_and_of_one_value_come_back():
    for fmt in (BlockFormat(4, 8, None), BlockFormat(4, 8, 8, 2)):
        assert nf.round_blocks(torch.zeros(2, 8), fmt).eq(0).all()
        assert nf.round_blocks(torch.full((2, 8), -3.0), fmt).eq(-3).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="does not divide"):
        nf.quantize_blocks(normal(3, 5), BlockFormat(4, 4))
    with pytest.raises(ValueError, match="scale_block"):
        nf.quantize_blocks(normal(3, 64), BlockFormat(4, 64, 8, 2))
    with pytest.raises(ValueError, match="NaN"):
        nf.round_blocks(torch.full((1, 64), torch.nan), BlockFormat(scale_bits=None))
    with pytest.raises(ValueError, match="float16"):
        nf.round_blocks(torch.full((1, 64), 1e6), BlockFormat(scale_bits=None, scale_dtype="float16"))
    for wrong in ({"bits": 5}, {"scale_bits": 1}, {"block": 0}, {"scale_dtype": "int8"}):
        with pytest.raises(ValueError):
            BlockFormat(**wrong)
    with pytest.raises(ValueError, match="bits"):
        nf.normal_float(1)
    with pytest.raises(ValueError, match="offset"):
        nf.normal_float(4, 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        nf.pack_bits(torch.tensor([4], dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="bytes"):
        nf.unpack_bits(torch.zeros(3, dtype=torch.uint8), 2, 100)
