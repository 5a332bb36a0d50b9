import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.random import arc_cosine


@settings(max_examples=5)
@given(cosine=st.floats(-0.99, 0.99))
def test_expectations_are_those_of_drawn_normals(cosine):
    g, h = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = cosine * g + math.sqrt(1 - cosine**2) * h
    c = torch.tensor(cosine, dtype=torch.float64)
    assert float(arc_cosine.relu_product(c)) == pytest.approx(float((g.relu() * h.relu()).mean()), abs=6e-3)
    assert float(arc_cosine.step_product(c)) == pytest.approx(float(((g > 0) & (h > 0)).double().mean()), abs=4e-3)


def test_the_derivative_of_one_is_the_other():
    c = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(arc_cosine.relu_product(c).sum(), c)
    torch.testing.assert_close(slope, arc_cosine.step_product(c).detach())
    assert torch.autograd.gradcheck(arc_cosine.relu_product, (c,))


def test_rounding_is_forgiven_and_more_is_not():
    assert float(arc_cosine.relu_product(torch.tensor(1 + 1e-6))) == pytest.approx(0.5)
    for function in (arc_cosine.relu_product, arc_cosine.step_product):
        with pytest.raises(ValueError, match="beyond 1"):
            function(torch.tensor(1.5))


def test_the_attention_kernel_takes_keys_in_any_order_and_number():
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kernel = arc_cosine.attention_kernel(x, y)
    torch.testing.assert_close(arc_cosine.attention_kernel(x[:, [0, 4, 2, 5, 1, 3]], y), kernel)
    twice = torch.cat((y, y[:, 1:]), 1)
    torch.testing.assert_close(arc_cosine.attention_kernel(x, twice), kernel)
    assert bool((arc_cosine.attention_kernel(torch.zeros_like(x), y) == 0).all())
    with pytest.raises(ValueError, match="at least one"):
        arc_cosine.attention_kernel(x[:, :1], y)
