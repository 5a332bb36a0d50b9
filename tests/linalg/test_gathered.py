"""Products that skip zeros, against dense ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.gathered import gated_product, summed_product


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 40), st.integers(0, 99))
def test_both_products_are_the_dense_ones(width, neurons, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, up, down = (torch.randn(s, generator=generator).to(dtype) for s in ((width,), (neurons, width), (neurons, outputs)))  # fmt: skip # noqa: E501
        gate = (torch.randn(neurons, generator=generator) * (torch.rand(neurons, generator=generator) < 0.5)).to(dtype)
        tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
        dense = ((up.double() @ x.double()) * gate.double()) @ down.double()
        assert torch.allclose(
            gated_product(x, up, down, gate).double(), dense, atol=tolerance * (1 + dense.abs().max())
        )
        dense = gate.double() @ down.double()
        assert torch.allclose(summed_product(gate, down).double(), dense, atol=tolerance * (1 + dense.abs().max()))


def test_matrices_that_are_not_contiguous_and_tasks_of_many_rows_agree():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 9000, generator=generator)
    gate = torch.randn(9000, generator=generator)
    slow, fast = summed_product(gate, weight.T), summed_product(gate, weight.T.contiguous())
    assert torch.allclose(slow, fast, atol=1e-3)


def test_nothing_open_gives_zeros():
    assert gated_product(torch.ones(2), torch.ones(3, 2), torch.ones(3, 4), torch.zeros(3)).tolist() == [0] * 4


@pytest.mark.parametrize(
    "call",
    [
        lambda: gated_product(torch.ones(2), torch.ones(3, 3), torch.ones(3, 4), torch.ones(3)),
        lambda: gated_product(torch.ones(2), torch.ones(3, 2), torch.ones(2, 4), torch.ones(3)),
        lambda: summed_product(torch.ones(2), torch.ones(3, 2)),
        lambda: summed_product(torch.ones(3), torch.ones(3, 2, requires_grad=True)),
    ],
)
def test_bad_input(call):
    with pytest.raises((ValueError, TypeError), match=r"fit|rows|gradient|type"):
        call()
