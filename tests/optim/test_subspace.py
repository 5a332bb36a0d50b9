import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian import optim
from gramian.optim.subspace import KINDS, NotReached, Projection, SubspaceParametrization, intrinsic_dimension


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(size=st.integers(5, 70), dimension=st.integers(1, 5), seed=st.integers(0, 99))
def test_columns_are_unit_and_the_adjoint_is_the_transpose(kind, size, dimension, seed):
    projection = Projection(size, dimension, kind, seed, torch.float64)
    matrix = projection.matrix()
    assert matrix.shape == (size, dimension)
    torch.testing.assert_close(matrix.norm(dim=0), torch.ones(dimension, dtype=torch.float64))
    u = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(projection.adjoint(u), u @ matrix)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_differentiable_and_comes_from_its_seed(kind):
    projection = Projection(30, 4, kind, 3, torch.float64)
    v = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(projection.apply, (v,))
    again, other = Projection(30, 4, kind, 3, torch.float64), Projection(30, 4, kind, 4, torch.float64)
    assert torch.equal(projection.matrix(), again.matrix())
    assert projection.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.allclose(projection.matrix(), other.matrix())


def test_dense_columns_are_orthonormal_and_sparse_ones_have_few_entries():
    dense = Projection(50, 6, "dense", 0, torch.float64).matrix()
    torch.testing.assert_close(dense.T @ dense, torch.eye(6, dtype=torch.float64))
    sparse = Projection(400, 6, "sparse").matrix()
    assert (sparse != 0).sum(0).tolist() == [20] * 6


def test_fastfood_memory_does_not_grow_with_the_dimension():
    small, large = (Projection(20_000, d, "fastfood") for d in (16, 1024))
    assert large.nbytes < 1.2 * small.nbytes < 1.2 * 10 * 20_000
    assert Projection(2000, 1500, "fastfood").nbytes < 12 * 2 * 2048


def test_training_moves_the_coordinates_alone_and_leaves_the_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    model[0].bias.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    inside = SubspaceParametrization(model, 10, seed=1)
    assert inside.layout.size == 6 * 16 + 16 * 3 + 3
    x, y = torch.randn(60, 6), torch.randint(3, (60,))
    torch.testing.assert_close(inside(x), model(x))
    history = optim.fit(inside, (x, y), lambda m, a, b: F.cross_entropy(m(a), b), steps=40, lr=0.1, show_progress=False)
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())
    out = inside(x)
    torch.testing.assert_close(inside.write()(x), out)
    assert torch.equal(model[0].bias, before["0.bias"])
    assert not torch.equal(model[0].weight, before["0.weight"])
    inside.train()
    assert model.training
    inside.eval()
    assert not model.training


def test_gradient_of_the_coordinates_is_the_projected_gradient():
    torch.manual_seed(1)
    model = nn.Linear(5, 4).double()
    inside = SubspaceParametrization(model, 7, "sparse", 2)
    x = torch.randn(9, 5, dtype=torch.float64)
    inside(x).square().mean().backward()
    model(x).square().mean().backward()
    whole = torch.cat([model.weight.grad.flatten(), model.bias.grad])
    torch.testing.assert_close(inside.coordinates.grad, inside.projection.adjoint(whole))


def test_the_search_finds_the_first_dimension_and_says_when_there_is_none():
    asked = []

    def train(d):
        asked.append(d)
        return 1.0 if d is None else d / 20

    found = intrinsic_dimension(train, [30, 10, 18, 5], stop=True)
    assert (found.dimension, found.threshold) == (18, 0.9)
    assert asked == [None, 5, 10, 18]
    with pytest.warns(NotReached, match="0.5"):
        assert intrinsic_dimension(train, [5, 10]).dimension is None


@pytest.mark.parametrize("change", [{"dimension": 0}, {"dimension": 31}, {"kind": "haar"}])
def test_impossible_subspaces_are_refused(change):
    arguments = {"size": 30, "dimension": 4, "kind": "dense"} | change
    with pytest.raises((ValueError, TypeError)):
        Projection(**arguments)


def test_refusals():
    with pytest.raises(ValueError, match="between 1 and"):
        SubspaceParametrization(nn.Linear(2, 2), 7)
    with pytest.raises(ValueError, match="running statistics"):
        SubspaceParametrization(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 3)
    with pytest.raises(ValueError, match="no trainable"):
        SubspaceParametrization(nn.Linear(2, 2).requires_grad_(False), 3)
    with pytest.raises(ValueError, match="several dtypes"):
        SubspaceParametrization(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), 3)
    with pytest.raises(ValueError, match="coordinates"):
        Projection(30, 4).apply(torch.zeros(5))
    with pytest.raises(ValueError, match="entries"):
        Projection(30, 4).adjoint(torch.zeros(5))
    with pytest.raises(ValueError, match="grid"):
        intrinsic_dimension(lambda d: 1.0, [])
    with pytest.raises(ValueError, match="target"):
        intrinsic_dimension(lambda d: 1.0, [3], target=1.5)
