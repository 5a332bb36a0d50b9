import pytest
import torch
from torch import nn

from gramian.models.vision.vit import TinyViT


def test_patches_are_the_images_and_places_matter():
    torch.manual_seed(0)
    model = TinyViT((4, 6), (2, 3), channels=2, classes=5, width=8, depth=1, heads=2, neurons=12)
    images = torch.randn(3, 2, 4, 6)
    assert model(images).shape == (3, 5)
    seen = []
    hook = model.embedding.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    out = model(images)
    hook.remove()
    torch.testing.assert_close(seen[0][1, 1], images[1, :, 0:2, 3:6].flatten())
    swapped = images.roll(3, 3)  # the same patches in another order
    assert not torch.allclose(model(swapped), out)
    nn.init.zeros_(model.place)
    torch.testing.assert_close(model(swapped), model(images))


def test_refusals():
    with pytest.raises(ValueError, match="tile"):
        TinyViT((4, 6), (3, 3))
    with pytest.raises(ValueError, match="multiple"):
        TinyViT((4, 6), (2, 3), width=10)
    with pytest.raises(ValueError, match="reads"):
        TinyViT((4, 6), (2, 3))(torch.zeros(1, 1, 6, 6))
