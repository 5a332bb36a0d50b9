"""Soft sorting."""

import pytest
import torch

from gramian.nn.sort import SoftSort, soft_permutation


def test_small_temperatures_sort_and_rows_sum_to_one():
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hard = soft_permutation(scores, 1e-6)
    torch.testing.assert_close((hard @ scores[..., None])[..., 0], scores.sort(-1).values)
    assert torch.equal(hard.round(), hard)
    torch.testing.assert_close(soft_permutation(scores).sum(-1), torch.ones(3, 9, dtype=torch.float64))


def test_gradients_are_right():
    scores = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_permutation, (scores,))


def test_the_layer_orders_tokens():
    layer = SoftSort(4, 1e-6, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(3))
    y = layer(x)
    assert bool(((y @ layer.key).diff(dim=1) > 0).all())
    torch.testing.assert_close(y.sum(1), x.sum(1))


def test_what_is_refused():
    with pytest.raises(ValueError, match="tau=0"):
        soft_permutation(torch.ones(2), 0)
    with pytest.raises(ValueError, match="channels=0"):
        SoftSort(0)
