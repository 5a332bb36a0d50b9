import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.surgery.mesa.store import BITS, Quantizer, pack, restore, unpack


def back(quantizer, x):
    return restore(quantizer(x), quantizer.bits, tuple(x.shape), x.dtype)


@settings(max_examples=15)
@given(st.sampled_from(BITS), st.integers(0, 40), st.integers(0, 10))
def test_codes_survive_packing(bits, count, seed):
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count).long(), codes)


@pytest.mark.parametrize("shape", [(6, 8), (3, 5, 8), (2, 4, 5, 3)])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("groups", [1, 2, 0])
def test_what_is_restored_is_within_half_a_step_of_its_group(shape, bits, groups):
    x = torch.randn(shape, dtype=torch.float64)
    quantizer = Quantizer(bits, groups, stochastic=False)
    got = back(quantizer, x)
    axis = 1 if x.ndim == 4 else x.ndim - 1
    rows, error = (t.movedim(axis, 0).reshape(groups or x.shape[axis], -1) for t in (x, got - x))
    step = (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    assert bool((error.abs().amax(1) <= 0.5 * step * (1 + 1e-9)).all())
    assert quantizer(x).packed.numel() == -(-x.numel() * bits // 8)


def test_stochastic_rounding_is_right_on_average_and_repeats_with_its_generator():
    x = torch.rand(1, 50)
    x[0, :2] = torch.tensor([0.0, 1.0])
    drawn = [back(Quantizer(2, generator=torch.Generator().manual_seed(s)), x) for s in range(200)]
    assert float((torch.stack(drawn).mean(0) - x).abs().max()) < 5 * (1 / 3) / 2 / 200**0.5
    assert torch.equal(drawn[3], back(Quantizer(2, generator=torch.Generator().manual_seed(3)), x))
    assert not torch.equal(drawn[3], drawn[4])


def test_ranges_are_running_estimates_and_what_lies_outside_is_clipped():
    quantizer = Quantizer(8, stochastic=False)
    quantizer(torch.tensor([[0.0, 1.0]]))
    assert (quantizer.low.item(), quantizer.range.item()) == (0.0, 1.0)
    got = back(quantizer, torch.tensor([[-2.0, 4.0]]))
    assert quantizer.low.item() == pytest.approx(-0.2)
    assert quantizer.range.item() == pytest.approx(1.5)
    assert got.tolist()[0] == pytest.approx([-0.2, 1.3])


def test_constants_and_low_precision():
    assert torch.equal(back(Quantizer(8), torch.full((4, 4), 3.5)), torch.full((4, 4), 3.5))
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    assert back(Quantizer(8), x).dtype == torch.bfloat16
    assert float((back(Quantizer(16), x) - x).abs().max()) < 0.02


@pytest.mark.parametrize("arguments", [{"bits": 3}, {"bits": 32}, {"groups": -1}, {"decay": 1.0}])
def test_settings_that_are_none(arguments):
    with pytest.raises(ValueError, match=r"bits=|groups="):
        Quantizer(**arguments)


def test_tensors_that_cannot_be_kept():
    with pytest.raises(ValueError, match="groups=3 do not divide the 8 channels"):
        Quantizer(8, 3)(torch.zeros(2, 8))
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            Quantizer(8)(torch.tensor([[1.0, bad]]))
