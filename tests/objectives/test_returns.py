import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.objectives.returns import lambda_return


def explicit(rewards, values, ends, discount, trace):
    """The weighted mean of all n-step returns, term by term."""
    batch, steps = rewards.shape
    found = torch.zeros_like(rewards)
    for b in range(batch):
        for t in range(steps):
            for n in range(1, steps - t + 1):
                weight = trace ** (n - 1) * ((1 - trace) if n < steps - t else 1.0)
                total, going = 0.0, 1.0
                for k in range(n):
                    total += going * float(rewards[b, t + k])
                    going *= discount * (1 - float(ends[b, t + k]))
                found[b, t] += weight * (total + going * float(values[b, t + n]))
    return found


@settings(max_examples=8)
@given(seed=st.integers(0, 99), discount=st.floats(0, 1), trace=st.floats(0, 1), steps=st.integers(1, 7))
def test_it_is_the_mean_of_all_n_step_returns(seed, discount, trace, steps):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(2, steps, generator=generator, dtype=torch.float64)
    values = torch.randn(2, steps + 1, generator=generator, dtype=torch.float64)
    ends = torch.rand(2, steps, generator=generator, dtype=torch.float64).round(decimals=1)
    found = lambda_return(rewards, values, ends, discount, trace)
    torch.testing.assert_close(found, explicit(rewards, values, ends, discount, trace), atol=1e-9, rtol=1e-9)


def test_it_can_be_differentiated():
    inputs = [torch.randn(1, n, dtype=torch.float64, requires_grad=True) for n in (3, 4)]
    ends = torch.zeros(1, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r, v: lambda_return(r, v, ends), inputs)


def test_what_does_not_fit_is_refused():
    zeros = torch.zeros(1, 3)
    with pytest.raises(ValueError, match="need 4 values"):
        lambda_return(zeros, zeros, zeros)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lambda_return(zeros, torch.zeros(1, 4), zeros, discount=1.1)
