"""GPTQ against its definition."""

import pytest
import torch

from gramian.linalg.factor.quant import symmetric
from gramian.linalg.factor.quant.gptq import gptq


def _problem(rows=5, inner=12, samples=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64) @ torch.randn(
        4, inner, generator=generator, dtype=torch.float64
    )
    x = x + 0.3 * torch.randn(samples, inner, generator=generator, dtype=torch.float64)
    return torch.randn(rows, inner, generator=generator, dtype=torch.float64), x


def _value(codes, scales, inner, group):
    return codes * symmetric.spread_scales(scales, inner, group)


def test_it_solves_for_the_columns_that_are_left():
    weight, x = _problem()
    gram = x.T @ x
    codes, scales = gptq(weight, gram, 4, 12, damping=0.02)
    moments = gram + 0.02 * gram.diagonal().mean() * torch.eye(12)
    current = weight.clone()
    for j in range(12):  # brute force: round a column, then least squares for all later ones
        fixed = codes[:, j] * scales[:, 0]
        assert torch.equal((current[:, j] / scales[:, 0]).round().clamp(-7, 7), codes[:, j].double())
        error = (current[:, j] - fixed)[:, None]
        later = slice(j + 1, 12)
        if j < 11:
            current[:, later] += error * torch.linalg.solve(moments[later, later], moments[later, j])
        current[:, j] = fixed


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_output_errs_less_than_by_rounding(bits):
    weight, x = _problem()
    codes, scales = gptq(weight, x.T @ x, bits, 6)
    plain, plain_scales = symmetric.quantize_matrix(weight, bits, 6)
    ours = (x @ (_value(codes, scales, 12, 6) - weight).T).norm()
    theirs = (x @ (_value(plain, plain_scales, 12, 6) - weight).T).norm()
    assert ours < 0.8 * theirs
    assert scales.shape == (5, 2)


def test_inputs_that_are_not_correlated_leave_rounding_as_it_is():
    weight, _ = _problem()
    codes, scales = gptq(weight, torch.eye(12, dtype=torch.float64), 4, 5)
    plain, plain_scales = symmetric.quantize_matrix(weight, 4, 5)
    assert torch.equal(codes, plain)
    torch.testing.assert_close(scales, plain_scales)


def test_bad_input_is_refused():
    weight, x = _problem()
    gram = x.T @ x
    with pytest.raises(ValueError, match="Gram matrix of"):
        gptq(weight, gram[:5, :5])
    with pytest.raises(ValueError, match="damping"):
        gptq(weight, gram, damping=0)
    with pytest.raises(ValueError, match="group=0"):
        gptq(weight, gram, group=0)
    with pytest.raises(ValueError, match="NaN"):
        gptq(weight * float("nan"), gram)
    with pytest.raises(ValueError, match="no inputs were seen"):
        gptq(weight, 0 * gram)
    with pytest.raises(ValueError, match="positive semidefinite"):
        gptq(weight, torch.diag(torch.tensor([-1.0] + 11 * [1.0], dtype=torch.float64)))
