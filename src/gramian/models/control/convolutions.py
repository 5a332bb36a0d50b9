"""Pictures to features and codes to pictures, by convolutions of stride two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Decoder", "Encoder", "draw_weights", "multilayer"]


def draw_weights(module: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Truncated normal weights of variance \(2/(\text{in} + \text{out})\), zero biases; norms are left as they are."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fan = sum(part.weight.shape[:2]) * part.weight[0, 0].numel() / 2
            spread = fan**-0.5 / 0.8796  # a normal cut at two deviations is that much narrower
            nn.init.trunc_normal_(part.weight, std=spread, a=-2 * spread, b=2 * spread, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def multilayer(inputs: int, units: int, layers: int, outputs: int) -> nn.Sequential:
    """Linear maps with root mean square norms and SiLU, then a linear map to the outputs."""
    parts: list[nn.Module] = []
    for depth in range(layers):
        parts += [nn.Linear(units if depth else inputs, units), nn.RMSNorm(units), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(units, outputs))


class Encoder(nn.Module):
    """Convolutions with batch norm and SiLU; the first keeps the size, each further one halves it.

    Args:
        shape: channels, height and width of a picture.
        depth, multiples: channels of layer i are ``depth · multiples[i]``.
        kernel: side of the kernels, odd.

    Attributes:
        out_shape: channels, height, width of the features.

    Raises:
        ValueError: an even kernel, no layer, or a height or width that cannot be halved that often.

    >>> Encoder((3, 64, 64)).out_shape
    (64, 4, 4)
    """

    def __init__(
        self, shape: tuple[int, int, int], depth: int = 16, multiples: Sequence[int] = (1, 2, 3, 4, 4), kernel: int = 5
    ) -> None:
        super().__init__()
        halves = 2 ** (len(multiples) - 1)
        if not multiples or kernel % 2 == 0 or depth < 1 or min(multiples) < 1:
            raise ValueError(
                f"depth={depth}, multiples={tuple(multiples)}, kernel={kernel}: at least one layer, odd kernel"
            )
        if shape[1] % halves or shape[2] % halves:
            raise ValueError(f"pictures of {shape[1]} × {shape[2]} cannot be halved {len(multiples) - 1} times")
        widths = [depth * m for m in multiples]
        layers: list[nn.Module] = []
        for index, width in enumerate(widths):
            before = widths[index - 1] if index else shape[0]
            layers += [
                nn.Conv2d(before, width, kernel, 2 if index else 1, kernel // 2),
                nn.BatchNorm2d(width),
                nn.SiLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_shape = (widths[-1], shape[1] // halves, shape[2] // halves)

    def forward(self, pictures: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        return self.layers(pictures).flatten(1)


class Decoder(nn.Module):
    """The encoder's mirror image: a linear map, then transposed convolutions, at last a sigmoid.

    Args:
        inputs: length of a code.
        shape, depth, multiples, kernel: of the `Encoder` that it mirrors.

    Raises:
        ValueError: as `Encoder`.
    """

    def __init__(
        self, inputs: int, shape: tuple[int, int, int], depth: int = 16, multiples: Sequence[int] = (1, 2, 3, 4, 4),
        kernel: int = 5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.start = Encoder(shape, depth, multiples, kernel).out_shape  # the same sizes, and the same refusals
        widths = [depth * m for m in multiples]
        self.stem = nn.Linear(inputs, self.start[0] * self.start[1] * self.start[2])
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[-1]), nn.SiLU()]
        for before, width in zip(widths[:0:-1], widths[-2::-1]):
            grow = nn.ConvTranspose2d(before, width, kernel, 2, kernel // 2, output_padding=1)
            layers += [grow, nn.BatchNorm2d(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], shape[0], kernel, 1, kernel // 2))

    def forward(self, code: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch channels height width"]:
        return torch.sigmoid(self.layers(self.stem(code).unflatten(1, self.start)))
