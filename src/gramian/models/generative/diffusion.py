r"""The DDPM path: how noise is added step by step, what a network learns about it, and how samples come back.

A network is any function ``network(x, t, condition)``: noisy data (batch, …), integer times (batch,), and whatever it
is told about each sample, or None; it answers with the noise, of x's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["DDPMPath", "cosine_betas", "linear_betas"]

Network = Callable[[Tensor, Tensor, Any], Tensor]


def linear_betas(steps: int, first: float = 1e-4, last: float = 0.02) -> Float[Tensor, " steps"]:
    r"""\(\beta_1 \dots \beta_T\) in equal steps; the ends are scaled by 1000 / T, so that any T ends in noise.

    Raises:
        ValueError: no step, or ends outside (0, 1) after scaling.

    Source: Ho, Jain & Abbeel (2020), section 4; the scaling as Nichol & Dhariwal's code does.

    >>> linear_betas(1000)[[0, -1]]
    tensor([0.0001, 0.0200], dtype=torch.float64)
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 is needed")
    scale = 1000 / steps
    if not 0 < first * scale < 1 or not 0 < last * scale < 1:
        raise ValueError(f"{steps} steps take β from {first * scale:g} to {last * scale:g}, which must be in (0, 1)")
    return torch.linspace(first * scale, last * scale, steps, dtype=torch.float64)


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> Float[Tensor, " steps"]:
    r"""\(\beta_t = \min(1 - f(t) / f(t-1),\ \mathrm{largest})\), \(f(t) = \cos^2\frac{t/T + s}{1 + s}\frac\pi2\).

    Raises:
        ValueError: no step.

    Source: Nichol & Dhariwal (2021), equation 17.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1 is needed")
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = ((t + offset) / (1 + offset) * math.pi / 2).cos().square()
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


@dataclass(frozen=True)
class DDPMPath:
    r"""\(x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon\) for noise of variance β a step.

    \(\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)\) is the share of variance that is still data's.
    Times are counted from 0 (almost clean) to steps − 1 (almost noise).

    Args:
        betas: variances of the noise added in each step, float64 (`linear_betas`, `cosine_betas`).

    Raises:
        ValueError: no β, or one outside (0, 1).

    Source: Ho, Jain & Abbeel (2020).
    """

    betas: Float[Tensor, " steps"]

    def __post_init__(self) -> None:
        if not len(self.betas) or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("betas are variances of single steps: at least one, each in (0, 1)")

    @property
    def steps(self) -> int:
        return len(self.betas)

    @property
    def alpha_bar(self) -> Float[Tensor, " steps"]:
        r"""\(\bar\alpha_t\): the share of variance that is still data's."""
        return (1 - self.betas.double()).log().cumsum(0).exp()

    def scales(self, t: Int[Tensor, " batch"], like: Float[Tensor, "batch ..."]) -> tuple[Tensor, Tensor]:
        r"""\(\sqrt{\bar\alpha_t}\) and \(\sqrt{1 - \bar\alpha_t}\), shaped to multiply `like`.

        Raises:
            ValueError: a time outside 0 … steps − 1.
        """
        if int(t.min()) < 0 or int(t.max()) >= self.steps:
            raise ValueError(f"times from {int(t.min())} to {int(t.max())}; this path has 0 … {self.steps - 1}")
        kept = self.alpha_bar.to(t.device)[t].view(-1, *(1,) * (like.ndim - 1))
        return kept.sqrt().to(like), (1 - kept).sqrt().to(like)

    def add_noise(
        self, x: Float[Tensor, "batch ..."], t: Int[Tensor, " batch"], noise: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch ..."]:
        r"""\(x_t\) of clean data and this noise."""
        signal, sigma = self.scales(t, x)
        return signal * x + sigma * noise

    def loss(
        self, network: Network, x: Float[Tensor, "batch ..."], condition: Any = None, *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        r"""\(E\,\|\epsilon - \epsilon_\theta(x_t, t, c)\|^2\) per entry; each sample has its own time and noise.

        Source: Ho, Jain & Abbeel (2020), equation 14.
        """
        t = torch.randint(self.steps, (len(x),), generator=generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x)
        return (network(self.add_noise(x, t, noise), t, condition) - noise).square().mean()

    @torch.no_grad()
    def sample(
        self, network: Network, shape: Sequence[int], condition: Any = None, *,
        method: Literal["ddpm", "ddim"] = "ddpm", steps: int | None = None, clip: float | int | None = None,
        generator: torch.Generator | None = None, start: Float[Tensor, "batch ..."] | None = None,
    ) -> Float[Tensor, "batch ..."]:  # fmt: skip
        r"""From noise to data through `steps` of the path's times.

        With \(\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\,\hat\epsilon) / \sqrt{\bar\alpha_t}\) and s the next time,
        \(x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\,\hat\epsilon + \sigma z\), where
        \(\sigma = 0\) for DDIM and
        \(\sigma^2 = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}(1 - \bar\alpha_t / \bar\alpha_s)\)
        for DDPM (the posterior's variance: ancestral sampling).

        Args:
            shape: of the samples, (batch, …).
            method: ``"ddpm"`` draws noise in each step, ``"ddim"`` only at the start.
            steps: how many of the times are visited, evenly; None: all.
            clip: bound of \(|\hat x_0|\); \(\hat\epsilon\) is made to agree.
            start: what to start from; None: standard normal.

        Raises:
            ValueError: an unknown method, or a number of steps outside 1 … the path's.

        Source: Ho, Jain & Abbeel (2020), algorithm 2; Song, Meng & Ermon (2021), equation 12.
        """
        if method not in ("ddpm", "ddim"):
            raise ValueError(f"method={method!r} is neither 'ddpm' nor 'ddim'")
        steps = self.steps if steps is None else steps
        if not 1 <= steps <= self.steps:
            raise ValueError(f"steps={steps} is not between 1 and the path's {self.steps}")
        times = torch.linspace(self.steps - 1, 0, steps).round().long().tolist()
        alpha = self.alpha_bar.tolist()
        x = torch.randn(tuple(shape), generator=generator) if start is None else start
        for index, t in enumerate(times):
            kept, left = alpha[t], alpha[times[index + 1]] if index + 1 < steps else 1.0
            noise = network(x, torch.full((len(x),), t, device=x.device), condition)
            clean = (x - (1 - kept) ** 0.5 * noise) / kept**0.5
            if clip is not None:
                clean = clean.clamp(-clip, clip)
                noise = (x - kept**0.5 * clean) / (1 - kept) ** 0.5
            variance = (1 - left) / (1 - kept) * (1 - kept / left) if method == "ddpm" else 0.0
            x = left**0.5 * clean + max(1 - left - variance, 0.0) ** 0.5 * noise
            if variance > 0:
                x = x + variance**0.5 * torch.randn(x.shape, generator=generator).to(x)
        return x
