"""The projector as surgery, the parametrization under it, and directions read from weights."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gramian.analysis.latent_directions import path_length, semantic_directions
from gramian.models.generative.stylegan2 import EqualizedLinear
from gramian.optim.parametrize import HouseholderLowRank
from gramian.surgery.householder_projector import directions, project


def layer_of(weight, rank, **options):
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data.copy_(weight)
    return parametrize.register_parametrization(layer, "weight", HouseholderLowRank(rank, **options), unsafe=True)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (5, 5)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_singular_values_are_the_scale_and_zero(shape, rank):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = layer_of(weight, rank, scale=2.5)
    values = torch.linalg.svdvals(layer.weight)
    expected = torch.tensor([2.5] * rank + [0.0] * (min(shape) - rank), dtype=torch.float64)
    torch.testing.assert_close(values.detach(), expected)
    U, _, Vh = torch.linalg.svd(weight)
    torch.testing.assert_close(layer.weight.detach(), 2.5 * U[:, :rank] @ Vh[:rank])


def test_the_parametrization_differentiates():
    module = HouseholderLowRank(2).double()
    left, right = (torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (4, 5))
    assert torch.autograd.gradcheck(module, (left.requires_grad_(), right.requires_grad_()))


def test_projecting_keeps_biases_matches_scale_and_undoes():
    torch.manual_seed(0)
    model = nn.Sequential(EqualizedLinear(8, 6, bias=1.0), nn.ReLU(), nn.Linear(6, 4))
    x = torch.randn(5, 8)
    before, matrix = model(x), model[0].matrix.detach()
    handle = project(model, "*", rank=3, scale="match")
    torch.testing.assert_close(model[0].bias.detach(), torch.ones(6))
    values = torch.linalg.svdvals(matrix)[:3]
    kept = torch.linalg.svdvals(model[0].weight.detach())[:3]
    torch.testing.assert_close(kept.square().sum(), values.square().sum())
    found, strength = semantic_directions(model[0].weight.detach(), 3)
    V = directions(model[0]).detach()
    torch.testing.assert_close(found @ found.T, V @ V.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(strength, kept.square())
    full = project(nn.Sequential(nn.Linear(4, 4)), "0", rank=4).replacements["0"].weight
    torch.testing.assert_close(full @ full.T, torch.eye(4))
    handle.undo()
    assert torch.equal(model(x), before)


def test_path_lengths_of_a_linear_map_are_its_squared_gains():
    A = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, strength = semantic_directions(A)
    lengths = path_length(lambda w: w @ A.T, torch.zeros(3, 4, dtype=torch.float64), found)
    torch.testing.assert_close(lengths, strength)
    torch.testing.assert_close(semantic_directions([A, A])[1], 2 * strength)
    half = path_length(lambda w: w @ A.T, torch.zeros(3, 4, dtype=torch.float64), found, features=lambda x: x / 2)
    torch.testing.assert_close(half, strength / 4)


def test_bad_projections_raise():
    with pytest.raises(ValueError, match="least side"):
        project(nn.Sequential(nn.Linear(4, 3)), "0", rank=4)
    broken = nn.Sequential(nn.Linear(4, 3))
    broken[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        project(broken, "0", rank=2)
    with pytest.raises(ValueError, match="at least 1"):
        HouseholderLowRank(0)
    with pytest.raises(TypeError, match="project first"):
        directions(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="between 1 and 4"):
        semantic_directions(torch.eye(4), 5)
