r"""The continuous wavelet transform with Morlet's wavelet: how much of each frequency there is at each time."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["morlet_scales", "scalogram"]

CENTRE = 6.0
"""ω₀, the wavelet's angular frequency at scale 1: about six oscillations under the bell."""


def morlet_scales(length: int, count: int) -> Float[Tensor, " {count}"]:
    r"""`count` scales, equal steps of the logarithm, from a period of 2 samples to one of half the series.

    A tone of period T answers loudest at scale \(T (\omega_0 + \sqrt{2 + \omega_0^2}) / 4\pi\).

    Raises:
        ValueError: fewer than 8 samples, or no scale.
    """
    if length < 8 or count < 1:
        raise ValueError(f"length={length} must be at least 8 and count={count} at least 1")
    periods = torch.logspace(math.log10(2), math.log10(length / 2), count, dtype=torch.float64)
    return periods * (CENTRE + math.sqrt(2 + CENTRE**2)) / (4 * math.pi)


def scalogram(
    x: Float[Tensor, "*batch length"], scales: Float[Tensor, " scales"]
) -> Float[Tensor, "*batch scales length"]:
    r"""Magnitudes of the continuous wavelet transform, computed by FFT; series are mirrored at their ends.

    \(|W(s, t)|,\; \hat W = \hat x(\omega)\, \sqrt{s}\, \pi^{-1/4} e^{-(s\omega - \omega_0)^2/2}\) for ω > 0.

    Raises:
        ValueError: scales that are not positive, an empty series.

    Source: Torrence and Compo, "A Practical Guide to Wavelet Analysis" (1998), section 3.

    >>> t = torch.arange(128.0)
    >>> scales = morlet_scales(128, 40)
    >>> loudest = scalogram(torch.sin(2 * torch.pi * t / 16), scales)[:, 64].argmax()
    >>> period = float(scales[loudest] * 4 * torch.pi / (6 + 38**0.5))
    >>> 15 < period < 17
    True
    """
    length = x.shape[-1]
    if length < 1 or not bool((scales > 0).all()):
        raise ValueError(
            f"scales must be positive and the series not empty; got {tuple(x.shape)} and {scales.tolist()}"
        )
    dtype = torch.promote_types(x.dtype, torch.float32)
    mirrored = torch.cat((x, x.flip(-1)), -1).to(dtype)
    omega = torch.fft.fftfreq(2 * length, dtype=dtype, device=x.device) * math.tau
    s = scales.to(omega)[:, None]
    bell = torch.where(omega > 0, (-0.5 * (s * omega - CENTRE).square()).exp(), 0.0) * s.sqrt() * math.pi**-0.25
    return torch.fft.ifft(torch.fft.fft(mirrored)[..., None, :] * bell)[..., :length].abs()
