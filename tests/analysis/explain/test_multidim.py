import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.analysis.explain import multidim


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ring(count=2000, seed=0):
    angles = 2 * math.pi * torch.rand(count, generator=generator(seed), dtype=torch.float64)
    return torch.stack((angles.cos(), angles.sin()), 1)


@settings(max_examples=5)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_indices_do_not_see_scale(seed, scale):
    x = torch.randn(400, 2, generator=generator(seed), dtype=torch.float64)
    assert multidim.separability(scale * x) == pytest.approx(multidim.separability(x), abs=0.01)
    assert multidim.mixture_index(scale * x) == pytest.approx(multidim.mixture_index(x), abs=0.006)
    assert 0 <= multidim.mixture_index(x) <= 1


def test_the_mixture_index_against_counting():
    x = torch.randn(150, 2, generator=generator(1), dtype=torch.float64)
    best = 0
    for turn in torch.arange(30) * (math.pi / 30):
        seen = math.cos(turn) * x[:, 0] + math.sin(turn) * x[:, 1]
        for c in torch.linspace(-3, 3, 241):
            best = max(best, int(((seen + c).abs() < 0.1 * (seen + c).square().mean().sqrt()).sum()))
    assert multidim.mixture_index(x, angles=30) * 150 == pytest.approx(best, abs=2)


def test_independent_axes_in_any_rotation_are_separable_and_a_ring_is_not():
    x = torch.rand(8000, 2, generator=generator(2), dtype=torch.float64)
    turn = math.radians(27)
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=x.dtype)
    assert multidim.separability(x @ rotation) < 0.03
    assert multidim.separability(x @ rotation, angles=1) > 0.1  # without a rotation the axes look dependent
    assert multidim.separability(ring(8000)) > 1.2


def test_groups_are_components_of_near_directions():
    base = torch.eye(6)
    near = torch.nn.functional.normalize(base[:3] + 0.2 * base[1:4], dim=1)
    decoder = torch.cat((base, near))
    groups = multidim.cluster_decoder(decoder)
    assert [set(g.tolist()) for g in groups] == [{0, 6}, {1, 7}, {2, 8}]
    spectral = multidim.cluster_decoder(decoder, "spectral", clusters=6)
    assert {frozenset(g.tolist()) for g in spectral} >= {frozenset({0, 6})}
    assert multidim.cluster_decoder(decoder, largest=1) == []


def test_a_circle_ranks_above_a_line_and_what_rarely_fires_is_left_out():
    generated = generator(3)
    angles = 2 * math.pi * torch.arange(6) / 6
    decoder = torch.zeros(10, 8)
    decoder[:6, 0], decoder[:6, 1] = angles.cos(), angles.sin()
    decoder[6:8, 3] = 1.0
    decoder[7, 4] = 0.05
    decoder[8, 5] = decoder[9, 6] = 1.0
    on_ring = (ring(600).float() @ decoder[:6, :2].T - 0.5).relu()
    codes = torch.zeros(1200, 10)
    codes[:600, :6] = on_ring
    codes[600:, 6:8] = torch.rand(600, 2, generator=generated)
    codes[:50, 8:] = 1.0
    groups = [torch.tensor([6, 7]), torch.arange(6), torch.tensor([8, 9])]
    ranked = multidim.rank_clusters(codes, decoder, groups)
    assert [c.members.tolist() for c in ranked] == [list(range(6))]
    assert ranked[0].score > 0.5
    both = multidim.rank_clusters(codes, decoder, groups, flatness=0.0)
    assert len(both) == 2


def test_circular_orders():
    angles = torch.tensor([0.1, 1.0, 2.2, 3.0, 4.0, 5.5])
    points = torch.stack((3 * angles.cos(), angles.sin(), 0 * angles), 1) + 5
    order = multidim.circular_order(points)
    assert multidim.broken_neighbours(order) == 0
    shuffle = torch.tensor([3, 0, 4, 1, 5, 2])
    assert multidim.broken_neighbours(multidim.circular_order(points[shuffle])) > 2


def test_what_the_indices_refuse():
    with pytest.raises(ValueError, match="at least 100"):
        multidim.separability(torch.randn(99, 2))
    with pytest.raises(ValueError, match="the same"):
        multidim.mixture_index(torch.ones(200, 2))
    with pytest.raises(ValueError, match="NaN"):
        multidim.mixture_index(torch.full((200, 2), float("nan")))
    with pytest.raises(ValueError, match="epsilon"):
        multidim.mixture_index(ring(), epsilon=0.0)
    with pytest.raises(ValueError, match="two members"):
        multidim.rank_clusters(torch.ones(200, 3), torch.eye(3), [torch.tensor([1])])
    with pytest.raises(ValueError, match="neighbours=4"):
        multidim.cluster_decoder(torch.eye(4), neighbours=4)
    with pytest.raises(ValueError, match="length zero"):
        multidim.cluster_decoder(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="on a line"):
        multidim.circular_order(torch.arange(5.0)[:, None] * torch.ones(5, 3))
    with pytest.raises(ValueError, match="three"):
        multidim.circular_order(torch.eye(2))
