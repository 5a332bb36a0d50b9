import torch
from torch import nn

from gramian.models.vision import binary_nets
from gramian.nn.quantized.binary import BiPerConv2d


def test_shapes_gradients_and_which_layers_are_binary():
    model = binary_nets.BinaryResNet((1, 2), 8, classes=5, channels=1)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model(x)
    assert y.shape == (2, 5)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "bias" not in n)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [isinstance(m, BiPerConv2d) for m in convolutions] == [False] + [True] * 6


def test_a_block_whose_convolutions_give_nothing_passes_its_input():
    model = binary_nets.BinaryResNet((1, 1), 8, channels=1).eval()
    for m in model.modules():
        if isinstance(m, BiPerConv2d):
            nn.init.zeros_(m.scale)
    x = torch.rand(2, 8, 4, 4)
    with torch.no_grad():
        y = model.blocks(x)
    assert torch.allclose(y[:, 4:12], nn.functional.avg_pool2d(x, 2))
    assert y[:, :4].abs().sum() + y[:, 12:].abs().sum() == 0


def test_the_networks_for_cifar_run():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for make in (binary_nets.binary_resnet20, binary_nets.binary_vgg_small):
            assert make().eval()(x).shape == (2, 10)
