"""EfficientNet-Lite0: its size, its padding, and what it sees in pictures."""

import numpy as np
import pytest
import torch
from torch import nn

from gramian import data, models
from gramian.lab import Missing
from gramian.models.vision import efficientnet_lite0, preprocess, standardize
from gramian.models.vision.efficientnet_lite import SameConv2d


def top(name: str, count: int) -> tuple[list[int], list[float]]:
    try:
        model, picture = models.pretrained("efficientnet-lite0"), data.load(name)
    except Missing as missing:
        pytest.skip(str(missing))
    with torch.no_grad():
        best = model(preprocess(picture.pixels)[None]).softmax(dim=1)[0].topk(count)
    return best.indices.tolist(), best.values.tolist()


def test_parameters_and_levels():
    model = efficientnet_lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert len(model.state_dict()) == 296
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    with torch.no_grad():
        maps = model.eval().levels(torch.zeros(2, 3, 128, 128))
    assert [m.shape[1] for m in maps] == [32, 16, 24, 40, 80, 112, 192, 320, 1280] == list(model.widths)
    assert [m.shape[2] for m in maps] == [64, 64, 32, 16, 8, 8, 4, 4, 4]


@pytest.mark.parametrize(("size", "kernel", "stride"), [(9, 3, 2), (8, 3, 2), (8, 5, 2), (7, 5, 1), (6, 1, 1)])
def test_padding_is_tensorflows_same(size, kernel, stride):
    conv = SameConv2d(1, 1, kernel, stride=stride, bias=False)
    x = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    wide = np.pad(x[0, 0].numpy(), (total // 2, total - total // 2))  # the surplus goes to the far side
    weight = conv.weight[0, 0].detach().numpy()
    corners = range(0, out * stride, stride)
    expected = [[(wide[i : i + kernel, j : j + kernel] * weight).sum() for j in corners] for i in corners]
    np.testing.assert_allclose(conv(x)[0, 0].detach().numpy(), np.array(expected), atol=1e-5)


@pytest.mark.data
def test_it_sees_a_cat():
    classes, _ = top("chelsea", 3)
    assert set(classes) == {285, 282, 281}  # Egyptian cat, tiger cat, tabby


@pytest.mark.data
def test_it_sees_an_espresso():
    classes, probabilities = top("coffee", 1)
    assert classes == [967]
    assert probabilities[0] >= 0.9
    if data.is_here("imagenet_classes"):
        assert data.load("imagenet_classes")[967].startswith("espresso")


def test_preprocessing_crops_centres_and_scales():
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)
    pixels[:, 36:92] = 255  # the central square of 56 = 64 · 224/256 pixels
    white = preprocess(pixels)
    assert white.shape == (3, 224, 224)
    torch.testing.assert_close(white, torch.ones_like(white))
    assert preprocess(pixels, crop=False).min() < -0.9
    grey = preprocess(np.full((40, 40), 127, dtype=np.uint8), size=32)
    assert grey.shape == (3, 32, 32)
    torch.testing.assert_close(grey, torch.zeros_like(grey))
    torch.testing.assert_close(standardize(torch.tensor([127.0, 255.0])), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="4 × 64 pixels to 224 × 224: at least 8"):
        preprocess(np.zeros((4, 64), dtype=np.uint8))
