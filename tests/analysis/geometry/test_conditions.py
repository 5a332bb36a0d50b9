"""Alignment, parallelism and generalization on geometries that are known."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.geometry import conditions
from gramian.linalg.manifold.orthogonal import haar
from gramian.science.task_geometry import latent_grid


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=6)
@given(st.integers(0, 1000))
def test_alignment_is_the_cosine_of_centred_kernels_and_sees_no_rotation(seed):
    x, y = draw(30, 5, seed=seed), draw(30, 3, seed=seed + 1)
    found = conditions.kernel_alignment(x, y)
    kernels = [(v - v.mean(0)) @ (v - v.mean(0)).T for v in (x, y)]
    assert torch.allclose(found, torch.nn.functional.cosine_similarity(*(k.flatten() for k in kernels), dim=0))
    turned = 0.2 * x @ haar(5, torch.Generator().manual_seed(seed), dtype=torch.float64) - 7
    assert torch.allclose(conditions.kernel_alignment(turned, y), found)
    assert torch.allclose(conditions.kernel_alignment(y, x), found)
    assert torch.allclose(conditions.kernel_alignment(x, x), torch.ones((), dtype=torch.float64))


def test_alignment_can_be_differentiated():
    y = draw(8, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x: conditions.kernel_alignment(x, y), draw(8, 3).requires_grad_())


@pytest.mark.parametrize("k", [2, 3])
def test_a_hypercube_is_parallel_and_generalizes_whatever_its_size(k):
    grid = latent_grid(k).double() * torch.tensor([3.0, 1.0, 0.5][:k])
    x = grid @ draw(k, 9) + 4
    for factor in range(k):
        side = grid[:, factor] > 0
        assert conditions.parallelism_score(x, side) == pytest.approx(1.0)
        assert conditions.parallelism_score(x, ~side) == pytest.approx(1.0)
        assert conditions.ccgp(x, torch.arange(2**k), side) == 1.0


def test_parallelism_is_the_best_pairing_by_hand():
    means, side = draw(6, 4, seed=3), torch.tensor([True, False, True, False, False, True])
    best = -2.0
    for order in itertools.permutations(torch.nonzero(~side).flatten().tolist()):
        steps = [means[i] - means[j] for i, j in zip(torch.nonzero(side).flatten().tolist(), order)]
        pairs = list(itertools.combinations(steps, 2))
        best = max(best, sum(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs) / len(pairs))
    assert conditions.parallelism_score(means, side) == pytest.approx(best)


def test_conditions_without_structure_and_a_misled_readout():
    side = torch.tensor([True, True, False, False])
    assert conditions.parallelism_score(torch.eye(4).double(), side) == pytest.approx(0.0, abs=1e-12)
    square = latent_grid(2).double()
    xor = square.prod(1) > 0
    assert conditions.parallelism_score(square, xor) == pytest.approx(-1.0)  # the steps are opposite
    assert conditions.ccgp(square.repeat(5, 1) + 0.05 * draw(20, 2), torch.arange(4).repeat(5), xor) == 0.0


def test_means_of_conditions():
    x, labels = draw(12, 3), torch.tensor([0, 1, 2] * 4)
    assert torch.allclose(conditions.condition_means(x, labels)[1], x[1::3].mean(0))


def test_what_has_no_geometry_is_refused():
    x, side = draw(4, 3), torch.tensor([True, True, False, False])
    with pytest.raises(ValueError, match="4 and 3 samples"):
        conditions.kernel_alignment(x, x[:3])
    with pytest.raises(ValueError, match="the same for all"):
        conditions.kernel_alignment(x, torch.ones(4, 2))
    with pytest.raises(ValueError, match="sides of 3 and 1"):
        conditions.parallelism_score(x, torch.tensor([True, True, True, False]))
    with pytest.raises(ValueError, match="same mean"):
        conditions.parallelism_score(x[[0, 1, 0, 1]], side)
    with pytest.raises(ValueError, match="condition 1 has no sample"):
        conditions.ccgp(x, torch.tensor([0, 2, 3, 0]), side)
    with pytest.raises(ValueError, match="4 sides for 3"):
        conditions.ccgp(x, torch.tensor([0, 1, 2, 0]), side)
