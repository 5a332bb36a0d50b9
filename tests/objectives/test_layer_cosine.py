import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.objectives.layer_cosine import layer_cosine_loss


def states(seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_its_gradient_is_right():
    assert torch.autograd.gradcheck(lambda *s: layer_cosine_loss(s), [s.requires_grad_() for s in states()])


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_only_directions_count(seed, scale):
    layers = states(seed)
    scaled = [layers[0] * scale, layers[1], layers[2] / scale]
    assert torch.allclose(layer_cosine_loss(layers), layer_cosine_loss(scaled))
    assert layer_cosine_loss([layers[0], scale * layers[0]]).abs() < 1e-12
    assert torch.allclose(layer_cosine_loss([layers[0], -layers[0]]), torch.tensor(2.0, dtype=torch.float64))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="two layers"):
        layer_cosine_loss(states(count=1))
    with pytest.raises(ValueError, match="one shape"):
        layer_cosine_loss([torch.zeros(2, 3), torch.zeros(2, 4)])
