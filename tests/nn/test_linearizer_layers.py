import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.nn import invertible, linearizer

WIDE = torch.float64


def network(shape=(4,), seed=0, **settings):
    g = torch.Generator().manual_seed(seed)
    return invertible.InvertibleNet(shape, blocks=2, hidden=8, generator=g, **settings).to(WIDE)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=WIDE)


@settings(max_examples=5)
@given(st.integers(0, 100), st.sampled_from([((4,), False), ((2, 3, 3), False), ((1, 4, 4), True)]))
def test_the_inverse_undoes_the_map_and_the_volume_is_the_jacobians(seed, kind):
    shape, squeeze = kind
    g = network(shape, seed, squeeze=squeeze)
    g.initialize(3 * draw(16, *shape, seed=seed) + 1)
    x = draw(3, *shape, seed=seed + 1)
    latents, log_det = g.forward_log_det(x)
    assert (g.inverse(latents) - x).abs().max() < 1e-9
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda one: g(one[None])[0], x[i]).reshape(g.features, -1)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[i])


def test_initializing_makes_every_channel_of_the_first_block_standard():
    g = network((4,))
    x = 5 * draw(200, 4) - 3
    g.initialize(x)
    block = g.blocks[0]
    normal = (x + block.bias) * block.log_scale.exp()
    torch.testing.assert_close(normal.mean(0), torch.zeros(4, dtype=WIDE), atol=1e-9, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(4, dtype=WIDE))


def test_gradients_of_the_map_and_of_the_inverse():
    g = network((2,))
    x = draw(2, 2).requires_grad_()
    assert torch.autograd.gradcheck(g, (x,))
    assert torch.autograd.gradcheck(g.inverse, (x,))


def test_one_seed_gives_one_network():
    x = draw(2, 4)
    assert torch.equal(network(seed=1)(x), network(seed=1)(x))
    assert not torch.equal(network(seed=1)(x), network(seed=2)(x))


@pytest.mark.parametrize(
    ("shape", "squeeze", "said"),
    [((3,), False, "halved"), ((1, 4, 4), False, "squeeze=True"), ((1, 3, 4), True, "even height"),
     ((4,), True, "even height"), ((4, 4), False, "must be"), ((0,), False, "at least 1")],
)  # fmt: skip
def test_shapes_that_cannot_be_inverted_are_refused(shape, squeeze, said):
    with pytest.raises(ValueError, match=said):
        network(shape, squeeze=squeeze)


def test_samples_and_latents_of_other_shapes_are_refused():
    g = network()
    with pytest.raises(ValueError, match="reads"):
        g(draw(2, 6))
    with pytest.raises(ValueError, match="width 6"):
        g.inverse(draw(2, 6))
    with pytest.raises(ValueError, match="constant"):
        g.initialize(torch.ones(8, 4, dtype=WIDE))


def test_the_spaces_are_vector_spaces():
    g = network()
    x, y, z = (draw(5, 4, seed=s) for s in range(3))
    zero = g.inverse(torch.zeros(5, 4, dtype=WIDE))
    close = {"atol": 1e-9, "rtol": 1e-9}
    torch.testing.assert_close(linearizer.add(g, x, zero), x, **close)
    torch.testing.assert_close(
        linearizer.add(g, linearizer.add(g, x, y), z), linearizer.add(g, x, linearizer.add(g, y, z)), **close
    )
    torch.testing.assert_close(linearizer.scale(g, x, 2), linearizer.add(g, x, x), **close)
    assert bool((linearizer.inner(g, x, x) > 0).all())


def test_matrices_multiply_and_a_parameter_is_trained():
    g = network()
    weight = torch.nn.Parameter(draw(4, 4))
    f, h = linearizer.Linearizer(g, weight), linearizer.Linearizer(g, draw(4, 4, seed=1))
    assert torch.equal(h.compose(f).matrix, h.matrix @ weight)
    assert torch.equal(f.transpose().matrix, weight.mT)
    f(draw(3, 4)).sum().backward()
    assert weight.grad is not None
    assert not any(p is h.weight for p in h.parameters())


def test_a_pseudo_inverse_between_spaces_of_two_widths():
    gx, gy = network((4,)), network((6,), seed=1)
    f = linearizer.Linearizer(gx, draw(6, 4), gy)
    x = draw(5, 4, seed=3)
    torch.testing.assert_close(f.pinv()(f(x)), x, atol=1e-8, rtol=1e-8)
    left, values, right = f.svd()
    assert left.shape == (4, 6)
    assert right.shape == (4, 4)
    torch.testing.assert_close(values, torch.linalg.svdvals(f.matrix))
    torch.testing.assert_close(gx(right) @ gx(right).mT, torch.eye(4, dtype=WIDE), atol=1e-8, rtol=0)


def test_what_linear_algebra_forbids_is_refused():
    g, other = network(), network((6,))
    with pytest.raises(ValueError, match="must be \\(6, 4\\)"):
        linearizer.Linearizer(g, draw(4, 4), other)
    with pytest.raises(ValueError, match="rank 1: singular"):
        linearizer.Linearizer(g, torch.ones(4, 4, dtype=WIDE)).inverse()
    with pytest.raises(ValueError, match="has no inverse"):
        linearizer.Linearizer(g, draw(6, 4), other).inverse()
    f = linearizer.Linearizer(g, draw(4, 4))
    with pytest.raises(ValueError, match="do not share"):
        f.compose(linearizer.Linearizer(network(), draw(4, 4)))
    with pytest.raises(ValueError, match="logits"):
        linearizer.Projector(g, draw(3))
    with pytest.raises(ValueError, match="weights"):
        linearizer.combine(g, (1.0,), (draw(2, 4), draw(2, 4)))


def test_a_projector_keeps_positive_logits_and_learns_them():
    g = network()
    f = linearizer.Projector(g, torch.tensor([1.0, -1.0, 2.0, -0.5], dtype=WIDE))
    assert torch.equal(f.matrix.detach().diagonal(), torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=WIDE))
    x = draw(5, 4)
    torch.testing.assert_close(f(f(x)), f(x), atol=1e-9, rtol=1e-9)
    (f(x) - x).square().sum().backward()
    assert bool((f.logits.grad != 0).all())
