r"""Three patches in random order: a faint one that tells the class, a loud one that nearly does, and noise."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["SpuriousPatches"]


class SpuriousPatches:
    r"""Patches \(c\,y\,v_c\), \(s\,a\,v_s\) and \(\xi\) of `dim` numbers each, shuffled, with labels \(y = \pm 1\).

    \(v_c \perp v_s\) are fixed unit vectors, a equals y with probability `agreement`, entries of \(\xi\) are normal.
    The core patch is always right but faint, the spurious one is loud and wrong for a few.

    Args:
        dim: numbers of a patch.
        agreement: P(a = y).
        core, spurious: c and s.
        noise: standard deviation of an entry of ξ.
        generator: draws the two vectors; without one torch's global generator.

    Raises:
        ValueError: dim below 2, an agreement outside (0, 1), or a negative strength.

    Attributes:
        core_vector, spurious_vector: \(v_c\) and \(v_s\).

    Source: Deng, Yang, Mirzasoleiman and Gu, "Robust Learning with Progressive Data Expansion Against Spurious
    Correlation" (2023), section 3 and their released synthetic experiment (dim 50, 0.98, 1/5, 1, 1/8).
    """

    def __init__(
        self,
        dim: int = 50,
        agreement: float = 0.98,
        core: float | int = 0.2,
        spurious: float | int = 1.0,
        noise: float | int = 0.125,
        generator: torch.Generator | None = None,
    ) -> None:
        if dim < 2:
            raise ValueError(f"dim={dim}: two orthogonal vectors need at least 2 numbers")
        if not 0 < agreement < 1:
            raise ValueError(f"agreement={agreement} is a probability inside (0, 1): at the ends a group is empty")
        if min(core, spurious, noise) < 0:
            raise ValueError(f"core={core}, spurious={spurious}, noise={noise} must not be negative")
        self.dim, self.agreement = dim, agreement
        self.core, self.spurious, self.noise = float(core), float(spurious), float(noise)
        both = torch.linalg.qr(torch.randn(dim, 2, generator=generator, dtype=torch.float64)).Q.float()
        self.core_vector, self.spurious_vector = both.T

    def sample(
        self, samples: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "samples 3 dim"], Int[Tensor, " samples"], Int[Tensor, " samples"]]:
        """Patches, classes (0, 1) and groups: twice the class, plus 1 where the spurious patch is wrong."""
        label = torch.randint(2, (samples,), generator=generator)
        wrong = torch.rand(samples, generator=generator) >= self.agreement
        y = 2.0 * label - 1
        a = torch.where(wrong, -y, y)
        patches = torch.stack(
            (
                self.core * y[:, None] * self.core_vector,
                self.spurious * a[:, None] * self.spurious_vector,
                self.noise * torch.randn(samples, self.dim, generator=generator),
            ),
            1,
        )
        order = torch.rand(samples, 3, generator=generator).argsort(1)
        return patches.gather(1, order[:, :, None].expand_as(patches)), label, 2 * label + wrong
