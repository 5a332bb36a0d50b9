r"""What neurons on a finite group compute: their frequency, their phases, and the representation they live in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Frequencies", "dominant_frequency", "irrep_concentration", "phase_residual"]


class Frequencies(NamedTuple):
    r"""The strongest frequency of each neuron.

    Attributes:
        frequency: from 1 to elements // 2.
        share: its power over that of all frequencies but 0.
        phase: φ in \(\cos(2π k a / p + φ)\), in (−π, π].
    """

    frequency: Int[Tensor, " neurons"]
    share: Float[Tensor, " neurons"]
    phase: Float[Tensor, " neurons"]


def dominant_frequency(weights: Float[Tensor, "neurons elements"]) -> Frequencies:
    """The strongest frequency of each row, over a cyclic group.

    Raises:
        ValueError: fewer than three elements, or a row that is constant.

    >>> wave = torch.cos(2 * torch.pi * 2 * torch.arange(7) / 7 + 0.5)
    >>> found = dominant_frequency(wave[None])
    >>> int(found.frequency), round(float(found.share), 4), round(float(found.phase), 4)
    (2, 1.0, 0.5)
    """
    elements = weights.shape[1]
    if elements < 3:
        raise ValueError(f"{elements} elements have no frequency: give at least three")
    spectrum = torch.fft.rfft(weights.double(), dim=1)[:, 1:]
    power = spectrum.abs().square()
    if elements % 2 == 0:
        power[:, -1] /= 2  # the others stand for a frequency and its mirror image
    total = power.sum(1)
    if not bool((total > 0).all()):
        raise ValueError(f"row {int(total.argmin())} is constant: it has no frequency. Leave it out")
    best = power.argmax(1)
    chosen = spectrum.gather(1, best[:, None])[:, 0]
    share = power.gather(1, best[:, None])[:, 0] / total
    return Frequencies(best + 1, share, chosen.angle())


def phase_residual(
    first: Float[Tensor, " neurons"], second: Float[Tensor, " neurons"], readout: Float[Tensor, " neurons"]
) -> Float[Tensor, " neurons"]:
    """|φ_first + φ_second − φ_readout| on the circle, from 0 to π; 0 for neurons that add their inputs.

    >>> phase_residual(torch.tensor([3.0]), torch.tensor([3.0]), torch.tensor([6.0 - 2 * torch.pi])).round(decimals=4)
    tensor([0.])
    """
    turn = first + second - readout
    return torch.atan2(turn.sin(), turn.cos()).abs()


def irrep_concentration(
    weights: Float[Tensor, "neurons order"], representations: Sequence[Float[Tensor, "elements _ _"]]
) -> Float[Tensor, "neurons representations"]:
    r"""The share of each neuron's power in the entries of each representation.

    Entries of real orthogonal irreps are orthogonal functions on the group with \(\sum_g R_{ij}(g)^2 = |G|/d\); with
    all of them the shares of a row add up to 1.

    Raises:
        ValueError: no representation, one of another order, or a row of zeros.
    """
    if not representations or any(len(r) != weights.shape[1] for r in representations):
        raise ValueError(f"give representations with one matrix for each of the {weights.shape[1]} elements")
    weights = weights.double()
    total = weights.square().sum(1)
    if not bool((total > 0).all()):
        raise ValueError(f"row {int(total.argmin())} is zero: it lives nowhere. Leave it out")
    shares = []
    for matrices in representations:
        entries = matrices.double().flatten(1)
        shares.append((weights @ entries).square().sum(1) * matrices.shape[1] / len(matrices))
    return torch.stack(shares, 1) / total[:, None]
