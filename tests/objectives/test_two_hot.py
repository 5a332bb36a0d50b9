import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.objectives.two_hot import from_two_hot, symexp, symlog, symlog_bins, two_hot, two_hot_loss


@settings(max_examples=20)
@given(value=st.floats(-1e6, 1e6))
def test_a_number_comes_back(value):
    bins, x = symlog_bins().double(), torch.tensor([value], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-9, atol=1e-12)
    weights = two_hot(symlog(x), bins)
    assert int((weights > 0).sum()) in (1, 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(from_two_hot(weights.log(), bins), x, rtol=1e-6, atol=1e-9)


def test_the_ends_of_the_scale_and_its_bins_are_hit_exactly():
    bins = symlog_bins(5, 2)
    assert two_hot(bins, bins).argmax(-1).tolist() == [0, 1, 2, 3, 4]
    assert two_hot(bins, bins).max(-1).values.tolist() == [1.0] * 5


def test_the_loss_is_least_at_the_two_bins():
    bins = symlog_bins(9, 4)
    target = torch.tensor([0.7])
    logits = torch.zeros(1, 9, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(200):
        optimizer.zero_grad()
        two_hot_loss(logits, target, bins).sum().backward()
        optimizer.step()
    torch.testing.assert_close(logits.softmax(-1), two_hot(symlog(target), bins), atol=1e-2, rtol=0)
    torch.testing.assert_close(from_two_hot(logits, bins), target, atol=1e-2, rtol=0)


def test_the_losss_gradient():
    bins = symlog_bins(7, 3).double()
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([0.1, -5.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: two_hot_loss(x, values, bins), logits)


@pytest.mark.parametrize("value", [21.0, -20.5, float("nan")])
def test_numbers_outside_the_bins_are_refused(value):
    with pytest.raises(ValueError, match="within the bins"):
        two_hot(torch.tensor([0.0, value]), symlog_bins())


def test_scales_that_are_none_are_refused():
    with pytest.raises(ValueError, match="2 bins"):
        symlog_bins(1)
    with pytest.raises(ValueError, match="above 0"):
        symlog_bins(5, 0)
