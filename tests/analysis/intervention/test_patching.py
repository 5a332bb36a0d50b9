import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gramian.analysis.intervention.patching import ablate, activation_at, patch, patch_subspace
from gramian.models.language.tiny import TinyTransformer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(width, rank, seed=0):
    return torch.linalg.qr(normal(width, width, seed=seed)).Q[:, :rank]


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), rank=st.integers(0, 5))
def test_a_patch_takes_the_span_from_the_source_and_the_rest_from_the_base(seed, rank):
    h, other, v = normal(3, 5, seed=seed), normal(3, 5, seed=seed + 1), basis(5, rank, seed)
    patched = patch(h, other, v)
    assert torch.allclose(patched @ v, other @ v, atol=1e-9)
    left = torch.eye(5, dtype=torch.float64) - v @ v.T
    assert torch.allclose(patched @ left, h @ left, atol=1e-9)
    assert torch.allclose(patch(patched, h, v), h, atol=1e-9)


def test_its_gradient_is_right():
    h, other = normal(2, 4, seed=1), normal(2, 4, seed=2)

    def through(free):
        return patch(h, other, torch.linalg.qr(free).Q)

    assert torch.autograd.gradcheck(through, [normal(4, 2, seed=3).requires_grad_()])


def model():
    torch.manual_seed(0)
    return TinyTransformer(8, 2, 2, positions=12, vocabulary=20)


def test_positions_and_sides_of_a_transformer():
    net, v = model(), torch.eye(8)
    base, source = torch.randint(0, 20, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, other = net(base), net(source)
        everything = patch_subspace(net, "layers.0", v, base, source)
        assert torch.allclose(everything, other, atol=1e-5)
        last = patch_subspace(net, "layers.1", v, base, source, positions=-1)
        assert torch.allclose(last[:, -1], other[:, -1], atol=1e-5)
        assert torch.allclose(last[:, :-1], plain[:, :-1], atol=1e-5)
        taken = patch_subspace(net, "layers.1", v, base, source, slice(0, 6), side="in")
        assert torch.allclose(taken, other, atol=1e-5)
    assert activation_at(net, "layers.1", base, positions=-1).shape == (3, 8)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_ablation_holds_directions_at_their_mean():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x, v = normal(10, 3), basis(6, 2)
    h = net[1](net[0](x))
    out = ablate(net, "1", v, x, mean=h.mean(0))
    assert torch.allclose(out, net[2](h + (h.mean(0) - h) @ v @ v.T))
    zero = ablate(net, "1", v, x)
    assert torch.allclose(zero, net[2](h - h @ v @ v.T))


def test_what_patching_refuses():
    net = model()
    ids = torch.zeros(2, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="orthonormal"):
        patch_subspace(net, "layers.0", torch.ones(8, 2), ids, ids)
    with pytest.raises(ValueError, match="do not fit"):
        patch_subspace(net, "layers.0", torch.eye(7), ids, ids)
    with pytest.raises(ValueError, match="equal length"):
        patch_subspace(net, "layers.0", torch.eye(8), ids, ids[:, :4])
    with pytest.raises(ValueError, match="no module matches"):
        patch_subspace(net, "layers.7", torch.eye(8), ids, ids)


# what nnsight 0.8.1 gives for the network and inputs below: two directions of the third layer's output, in the second
# place of each row, taken from the run on `source`
NNSIGHT = [
    [-0.683383, 0.608691, 0.703392],
    [1.908485, -4.632905, -1.767913],
    [0.678213, -0.124403, -0.641341],
    [1.495298, -1.382488, -1.429489],
]


def test_patched_outputs_are_those_of_nnsight():
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel(), dtype=torch.float64) * (1.3 + k)).view(p.shape))
    steps = torch.arange(20, dtype=torch.float64)
    base, source = torch.cos(steps).view(2, 2, 5), torch.sin(2 * steps).view(2, 2, 5)
    directions = torch.linalg.qr(torch.cos(steps[:16]).view(8, 2)).Q
    found = patch_subspace(net, "2", directions, base, source, 1)
    expected = torch.tensor(NNSIGHT, dtype=torch.float64).view(2, 2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
