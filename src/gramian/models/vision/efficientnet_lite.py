"""EfficientNet-Lite0: mobile inverted bottlenecks with ReLU6 and without squeeze-and-excitation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

_CENTRE, _SCALE = 127.0, 128.0
_SIZE = 224
_MARGIN = 32  # the centre crop takes size / (size + margin) of the shorter side
_EPS, _MOMENTUM = 1e-3, 0.01


class Stage(NamedTuple):
    """A run of blocks; the first has the stride, the others keep size and width."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_STEM_WIDTH, _HEAD_WIDTH = 32, 1280


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output size ⌈size / stride⌉, an odd surplus at the far side."""

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        need = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            need.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = need
        return self._conv_forward(F.pad(x, (left, right, top, bottom)), self.weight, self.bias)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=_EPS, momentum=_MOMENTUM)


class InvertedBottleneck(nn.Module):
    """Widen, filter each channel, narrow; the input is added where shapes agree (Sandler et al., 2018, section 3.3)."""

    def __init__(self, in_width: int, width: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.residual = stride == 1 and in_width == width
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = SameConv2d(in_width, hidden, 1, bias=False)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride=stride, groups=hidden, bias=False)
        self._bn1 = _norm(hidden)
        self._project_conv = SameConv2d(hidden, width, 1, bias=False)
        self._bn2 = _norm(width)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.residual else h


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite; the names of its parameters are those of the published state dictionary.

    Args:
        stages: the runs of blocks.
        num_classes: outputs.
        dropout: rate before the last layer, in training.

    Source: Tan and Le, EfficientNet (2019); the Lite variants drop squeeze-and-excitation, use ReLU6 and
    keep stem and head at their width.
    """

    def __init__(self, stages: tuple[Stage, ...] = LITE0, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM_WIDTH, 3, stride=2, bias=False)
        self._bn0 = _norm(_STEM_WIDTH)
        self._blocks = nn.ModuleList()
        self.stage_ends: list[int] = []
        width = _STEM_WIDTH
        for stage in stages:
            for i in range(stage.repeats):
                self._blocks.append(
                    InvertedBottleneck(
                        width,
                        stage.width,
                        kernel=stage.kernel,
                        stride=stage.stride if i == 0 else 1,
                        expansion=stage.expansion,
                    )
                )
                width = stage.width
            self.stage_ends.append(len(self._blocks) - 1)
        self._conv_head = SameConv2d(width, _HEAD_WIDTH, 1, bias=False)
        self._bn1 = _norm(_HEAD_WIDTH)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(_HEAD_WIDTH, num_classes)
        self.widths: tuple[int, ...] = (_STEM_WIDTH, *(s.width for s in stages), _HEAD_WIDTH)

    def levels(self, x: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch channels h w"]]:
        """The feature maps of stem, stages (each one's last) and head; `widths` are their channels."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = [x]
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in self.stage_ends:
                maps.append(x)
        maps.append(F.relu6(self._bn1(self._conv_head(x))))
        return maps

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of images prepared by `preprocess`."""
        return self._fc(self._dropout(self.levels(x)[-1].mean(dim=(2, 3))))


def efficientnet_lite0(pretrained: bool = False) -> EfficientNetLite:
    """EfficientNet-Lite0 (4,652,008 parameters); trained on ImageNet-1k, in evaluation mode, if `pretrained`.

    Raises:
        Missing: the weights are not on this machine; the message names the command that brings them.
    """
    model = EfficientNetLite()
    if pretrained:
        from gramian import data

        state = torch.load(data.path("efficientnet_lite0"), weights_only=True, map_location="cpu")
        model.load_state_dict(state)
        model.eval()
    return model


def standardize(pixels: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Pixel values 0…255 as the network takes them: (x − 127) / 128, the same for all channels."""
    return (pixels - _CENTRE) / _SCALE


def preprocess(
    pixels: UInt8[np.ndarray, "height width 3"] | UInt8[np.ndarray, "height width"],
    *,
    crop: bool = True,
    size: int = _SIZE,
) -> Float[Tensor, "3 size size"]:
    """Prepare a picture as the Lite networks were evaluated.

    The central square, 224/256 of the shorter side long, is resized to `size` × `size` (bicubic) and goes
    through `standardize`. A grey picture becomes three equal channels.

    Args:
        pixels: the picture.
        crop: False resizes the whole picture instead of its centre.
        size: side of the result; 224 is what the network was trained for.

    Raises:
        ValueError: the picture or the result has fewer than 8 pixels a side.
    """
    from PIL import Image

    if min(*pixels.shape[:2], size) < 8:
        raise ValueError(
            f"{pixels.shape[0]} × {pixels.shape[1]} pixels to {size} × {size}: at least 8 a side are needed"
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if crop:
        height, width = pixels.shape[:2]
        side = min(height, width) * _SIZE // (_SIZE + _MARGIN)
        top, left = (height - side + 1) // 2, (width - side + 1) // 2
        pixels = pixels[top : top + side, left : left + side]
    resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), Image.Resampling.BICUBIC)
    return standardize(torch.from_numpy(np.array(resized)).float()).permute(2, 0, 1).contiguous()
