"""The compiled short convolution against torch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from gramian.linalg.signal.short_convolution import short_convolution, short_convolution_reference
from gramian.linalg.signal.short_convolution_ops import convolve


def problem(batch=2, length=9, channels=5, width=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    shapes = ((batch, length, channels), (channels, width), (channels,), (batch, channels, width - 1))
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(1, 140),
    channels=st.integers(1, 40),
    width=st.integers(1, 6),
    silu=st.booleans(),
    biased=st.booleans(),
    apart=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_plain_form(length, channels, width, silu, biased, apart):
    x, weight, bias, state = problem(2, length, channels, width)
    if apart:  # rows inside wider rows
        x = torch.cat((torch.ones_like(x), x, x), -1)[..., channels : 2 * channels]
    leaves = [t.requires_grad_() for t in (x, weight, bias, state)]
    bias = leaves[2] if biased else None
    leaves = [t for t in leaves if t is not None and t.numel() and (biased or t is not leaves[2])]
    y, carried = short_convolution(leaves[0], weight, bias, state, silu=silu)
    exact = short_convolution_reference(leaves[0], weight, bias, state, silu=silu)
    torch.testing.assert_close(y, exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(carried, torch.cat((state, x.mT), -1)[..., length:])
    slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    for a, b in zip(*(torch.autograd.grad(out, leaves, slope) for out in (y, exact)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@settings(max_examples=8, deadline=None)
@given(cut=st.integers(1, 29), width=st.integers(1, 5))
def test_a_sequence_may_be_cut_anywhere(cut, width):
    x, weight, bias, state = problem(length=30, width=width)
    whole, last = short_convolution(x, weight, bias, state, silu=True)
    first, state = short_convolution(x[:, :cut], weight, bias, state, silu=True)
    second, state = short_convolution(x[:, cut:], weight, bias, state, silu=True)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last)


def test_single_precision_and_half_precision():
    tensors = problem(length=200, channels=48)
    exact, _ = short_convolution(*tensors, silu=True)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        y, carried = short_convolution(*(t.to(dtype) for t in tensors), silu=True)
        assert y.dtype == carried.dtype == dtype
        torch.testing.assert_close(y.double(), exact, rtol=bound, atol=bound)


def test_a_nan_reaches_the_outputs_that_read_it():
    x, weight, bias, state = problem(1, 100, 20)
    x[0, 70, 3] = torch.nan
    y, _ = short_convolution(x, weight, bias, state, silu=True)
    assert y.isnan().nonzero().tolist() == [[0, t, 3] for t in range(70, 74)]


def test_second_derivatives_and_graphs():
    leaves = [t.requires_grad_() for t in problem(length=5, channels=2, width=3)]
    torch.autograd.gradgradcheck(lambda *t: short_convolution(*t, silu=True), leaves)
    for tensors in (leaves, problem(length=5, dtype=torch.float32)):
        opcheck(convolve, (*tensors, True))


def test_bad_sizes_are_refused():
    x, weight, bias, state = problem()
    with pytest.raises(ValueError, match="at least one position"):
        short_convolution(x[:, :0], weight, bias, state)
    for arguments, name in (
        ((x, weight, bias, state[:, :, :2]), "state"),
        ((x[..., :4], weight, None, None), "weight"),
    ):
        with pytest.raises((ValueError, TypeError), match=name):
            short_convolution(*arguments)
