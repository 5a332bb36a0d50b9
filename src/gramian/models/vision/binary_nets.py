"""Image networks whose inner convolutions are binary: ResNets with free shortcuts, and a small VGG."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.quantized.binary import BiPerConv2d

__all__ = ["BinaryResNet", "binary_resnet18", "binary_resnet20", "binary_vgg_small"]


class _Shortcut(nn.Module):
    """The input itself, pooled and padded with channels of zeros where the block changes the shape."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = outputs - channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)) if self.more else x


class _Block(nn.Module):
    """Two binary convolutions, each with a batch norm and a shortcut of its own."""

    def __init__(self, channels: int, outputs: int, stride: int, frequency: float | int) -> None:
        super().__init__()
        self.conv1 = BiPerConv2d(channels, outputs, 3, stride, 1, bias=False, frequency=frequency)
        self.conv2 = BiPerConv2d(outputs, outputs, 3, 1, 1, bias=False, frequency=frequency)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = _Shortcut(channels, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm1(self.conv1(x)) + self.shortcut(x))
        return F.hardtanh(self.norm2(self.conv2(x)) + x)


class BinaryResNet(nn.Module):
    """A residual network for small images; the first convolution and the head are float, the rest binary.

    Args:
        blocks: how many blocks each group has; groups after the first halve the image.
        width: channels of the first group; each next has twice as many.
        classes: outputs.
        channels: of the input.
        head_norm: whether the pooled features are normalized before the head.
        frequency: of the BiPer layers.
    """

    def __init__(
        self, blocks: tuple[int, ...], width: int, classes: int = 10, channels: int = 3, *, head_norm: bool = True,
        frequency: float | int = 20.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        inner: list[nn.Module] = []
        size = width
        for group, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if group and not block else 1
                inner.append(_Block(size, width * 2**group, stride, frequency))
                size = width * 2**group
        self.blocks = nn.Sequential(*inner)
        self.head_norm = nn.BatchNorm1d(size) if head_norm else nn.Identity()
        self.head = nn.Linear(size, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.blocks(F.hardtanh(self.norm(self.conv(x))))
        return self.head(self.head_norm(x.mean((-2, -1))))


def binary_resnet20() -> BinaryResNet:
    """ResNet-20 for CIFAR-10: three groups of three blocks, 16 to 64 channels."""
    return BinaryResNet((3, 3, 3), 16)


def binary_resnet18() -> BinaryResNet:
    """ResNet-18 for CIFAR-10: four groups of two blocks, 64 to 512 channels."""
    return BinaryResNet((2, 2, 2, 2), 64)


def binary_vgg_small() -> nn.Sequential:
    """VGG-Small for CIFAR-10: one float and five binary convolutions, 128 to 512 channels, and a linear head."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128), nn.Hardtanh()]
    for channels, outputs, pool in ((128, 128, 1), (128, 256, 0), (256, 256, 1), (256, 512, 0), (512, 512, 1)):
        layers.append(BiPerConv2d(channels, outputs, 3, 1, 1, bias=False))
        layers += [nn.MaxPool2d(2)] if pool else []
        layers += [nn.BatchNorm2d(outputs), nn.Hardtanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, 10))
