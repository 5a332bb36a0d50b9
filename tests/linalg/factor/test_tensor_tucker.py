import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.linalg.factor import tensor as tensors


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_products_along_axes_are_einsum():
    core, factors = draw(2, 3, 2, 2), [draw(d, r, seed=r + d) for d, r in ((5, 2), (4, 3), (3, 2), (3, 2))]
    found = tensors.tucker_to_tensor(core, factors)
    torch.testing.assert_close(found, torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *factors))
    matrix = draw(7, 4)
    torch.testing.assert_close(tensors.mode_product(found, matrix, -3), torch.einsum("ijkl,mj->imkl", found, matrix))
    assert tensors.multilinear_rank(found) == (2, 3, 2, 2)


@settings(max_examples=8)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 99))
def test_full_ranks_are_exact_and_truncation_is_bounded(shape, seed):
    tensor = draw(*shape, seed=seed)
    most = [min(tensors.unfold(tensor, n).shape) for n in range(len(shape))]
    torch.testing.assert_close(tensors.hosvd(tensor, most).full(), tensor)
    ranks = [max(1, r - 1) for r in most]
    found = tensors.hosvd(tensor, ranks)
    tails = [torch.linalg.svdvals(tensors.unfold(tensor, n))[r:].square().sum() for n, r in enumerate(ranks)]
    error = (found.full() - tensor).square().sum()
    assert float(error) <= float(sum(tails)) + 1e-12
    assert float(error) >= max(float(t) for t in tails) - 1e-12  # no form of these ranks does better along one axis
    for factor in found.factors:
        torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1], dtype=torch.float64))


def test_gradients_and_sizes():
    core, factors = draw(2, 2, 2).requires_grad_(), [draw(3, 2, seed=i).requires_grad_() for i in range(3)]
    assert torch.autograd.gradcheck(lambda c, *f: tensors.tucker_to_tensor(c, f), (core, *factors))
    assert tensors.tucker_size((3, 3, 3), (2, 2, 2)) == sum(t.numel() for t in (core, *factors))


def test_what_is_refused():
    tensor = draw(3, 4)
    with pytest.raises(ValueError, match="one an axis"):
        tensors.hosvd(tensor, (1,))
    with pytest.raises(ValueError, match="between 1 and 3"):
        tensors.hosvd(tensor, (4, 1))
    with pytest.raises(ValueError, match="NaN"):
        tensors.hosvd(tensor * torch.nan, (1, 1))
    with pytest.raises(ValueError, match="factors for a core"):
        tensors.tucker_to_tensor(tensor, [tensor])
    with pytest.raises(ValueError, match="columns"):
        tensors.mode_product(tensor, draw(2, 5), 0)
    with pytest.raises(ValueError, match="axis 2"):
        tensors.unfold(tensor, 2)
