"""The periods of a series, by its Fourier amplitudes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["dominant_periods", "fold", "unfold"]


def dominant_periods(
    x: Float[Tensor, "batch length channels"], k: int
) -> tuple[Int[Tensor, " {k}"], Float[Tensor, "batch {k}"]]:
    """The k periods ⌊length / f⌋ with the largest amplitudes, and each sample's amplitude at them.

    Amplitudes are averaged over samples and channels to choose the frequencies f ≥ 1, and over channels only for the
    samples' weights. The mean of the series (frequency 0) does not count.

    Raises:
        ValueError: k below 1 or above length / 2; a batch without any variation, which has no period.

    Source: Wu et al. (arXiv 2210.02186), equation 1.

    >>> t = torch.arange(48.0)[None, :, None]
    >>> dominant_periods(torch.sin(2 * torch.pi * t / 12), 1)[0]
    tensor([12])
    """
    length = x.shape[1]
    if not 1 <= k <= length // 2:
        raise ValueError(f"k={k} periods of {length} steps: k must lie between 1 and {length // 2}")
    amplitudes = torch.fft.rfft(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=1).abs()
    chosen = amplitudes.detach().mean((0, 2))
    chosen[0] = 0
    if not bool(chosen.max() > 0):
        raise ValueError("the series do not vary: they have no period")
    frequencies = chosen.topk(k).indices
    return length // frequencies, amplitudes.mean(-1)[:, frequencies].to(x.dtype)


def fold(x: Float[Tensor, "batch length channels"], period: int) -> Float[Tensor, "batch channels rows {period}"]:
    """Rows of one period each, zeros after the end of the last: what changes within a period runs along a row."""
    missing = -x.shape[1] % period
    return torch.nn.functional.pad(x.mT, (0, missing)).unflatten(2, (-1, period))


def unfold(plane: Float[Tensor, "batch channels rows period"], length: int) -> Float[Tensor, "batch {length} channels"]:
    """The inverse of `fold`."""
    return plane.flatten(2)[..., :length].mT
