import pytest
import torch

from gramian.models.generative.dit import DiT, grid_positions, time_features

SMALL = {"size": 8, "channels": 1, "patch": 2, "width": 16, "depth": 2, "heads": 2, "classes": 3}


def awake(**settings):
    """A network whose zero starts are filled, so that everything is heard."""
    model, g = DiT(**SMALL, **settings), torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g)
    return model


def inputs():
    g = torch.Generator().manual_seed(1)
    return torch.randn(3, 1, 8, 8, generator=g), torch.tensor([0, 10, 90]), torch.tensor([0, 2, -1])


@pytest.mark.parametrize("settings", [{}, {"common": 4, "per_class": 2}])
def test_it_starts_at_zero_and_hears_time_and_class(settings):
    x, t, labels = inputs()
    assert DiT(**SMALL, **settings)(x, t, labels).eq(0).all()
    model = awake(**settings)
    out = model(x, t, labels)
    assert out.shape == x.shape
    assert not torch.allclose(out, model(x, t + 1, labels))
    changed = model(x, t, torch.tensor([1, 2, -1]))
    assert not torch.allclose(out[0], changed[0])
    torch.testing.assert_close(out[1:], changed[1:])
    torch.testing.assert_close(model(x, t), model(x, t, torch.tensor([-1, -1, -1])))


def test_two_outputs_an_entry():
    x, t, labels = inputs()
    assert DiT(**SMALL, learn_variance=True)(x, t, labels).shape == (3, 2, 8, 8)


def test_the_large_network_has_the_published_size():
    with torch.device("meta"):
        model = DiT(learn_variance=True)
    assert abs(sum(p.numel() for p in model.parameters()) / 458.1e6 - 1) < 0.002


def test_positions_tell_all_places_apart():
    places = grid_positions(4, 16)
    assert torch.cdist(places, places).fill_diagonal_(1).min() > 0.1
    angles = torch.tensor([[3.0, 0.03]])
    torch.testing.assert_close(time_features(torch.tensor([3]), 4), torch.cat([angles.cos(), angles.sin()], 1))


def test_bad_input_is_refused():
    x, t, labels = inputs()
    with pytest.raises(ValueError, match="divide"):
        DiT(**SMALL | {"patch": 3})
    model = awake()
    with pytest.raises(ValueError, match="images"):
        model(x[..., :6], t, labels)
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        model(x, t, labels + 1)
    with pytest.raises(ValueError, match="dense"):
        model.gate(labels)
