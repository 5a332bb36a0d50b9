"""Random convolution features of series: for each kernel, how often it answers and how strongly at most."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["RandomKernels"]


class RandomKernels:
    """Random dilated kernels, drawn from the length of the series alone; no data is looked at.

    Each has 7, 9 or 11 centred Gaussian weights, a bias in (−1, 1), a dilation log-uniform up to the length, and
    padding or not by a coin.

    Args:
        length: of the series.
        count: how many kernels.
        generator: what draws them.

    Raises:
        ValueError: series shorter than 11, no kernel.

    Source: Dempster, Petitjean and Webb, "ROCKET: Exceptionally Fast and Accurate Time Series Classification Using
    Random Convolutional Kernels" (2020), section 3.

    >>> kernels = RandomKernels(50, 20, torch.Generator().manual_seed(0))
    >>> kernels.features(torch.randn(3, 50)).shape
    torch.Size([3, 40])
    """

    def __init__(self, length: int, count: int, generator: torch.Generator | None = None) -> None:
        if length < 11 or count < 1:
            raise ValueError(f"length={length} must be at least 11, the longest kernel, and count={count} at least 1")
        self.length, self.count = length, count
        groups: dict[tuple[int, int, int], list[Tensor]] = {}
        for _ in range(count):
            width = (7, 9, 11)[int(torch.randint(3, (), generator=generator))]
            reach = math.log2((length - 1) / (width - 1))
            dilation = int(2 ** (reach * float(torch.rand((), generator=generator))))
            padded = bool(torch.randint(2, (), generator=generator))
            weights = torch.randn(width, generator=generator)
            bias = 2 * torch.rand(1, generator=generator) - 1
            key = (width, dilation, (width - 1) * dilation // 2 if padded else 0)
            groups.setdefault(key, []).append(torch.cat((weights - weights.mean(), bias)))
        self.groups = {key: torch.stack(found) for key, found in sorted(groups.items())}

    def features(self, x: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch features"]:
        """For each kernel the share of positive answers and the largest one (2 · count features).

        Raises:
            ValueError: series of another length.
        """
        if x.shape[-1] != self.length:
            raise ValueError(f"the series have length {x.shape[-1]}; the kernels were drawn for {self.length}")
        rows, found = x.reshape(-1, 1, self.length), []
        for (_, dilation, padding), kernels in self.groups.items():
            kernels = kernels.to(rows)
            answers = F.conv1d(rows, kernels[:, None, :-1], kernels[:, -1], padding=padding, dilation=dilation)
            found += [(answers > 0).to(x.dtype).mean(-1), answers.amax(-1)]
        return torch.cat(found, -1).reshape(*x.shape[:-1], 2 * self.count)
