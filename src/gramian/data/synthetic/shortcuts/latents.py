r"""Two features that tell the class, one more reliably, the other more easily found in the input."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ShortcutTask"]

SLOPE = 0.2  # of the leaky ReLUs in nested embeddings, below zero


class ShortcutTask:
    r"""A shortcut \(z_s\) and a core \(z_c\), Gaussian around \(y\mu_s\) and \(y\mu_c\) with \(y = \pm 1\), inside x.

    The predictivity of a feature is what its sign alone gets right, \(\rho_i = \Phi(\mu_i)\) at unit variance. How
    available it is, is set apart from that: the shortcut's part of x is `amplification` times larger, and the sign and
    place of a feature that is nested lie behind random layers. With none, x is an isometric picture of
    \((\alpha z_s, z_c)\):

    \[ x = [\alpha f_s(z_s u_s), f_c(z_c u_c)]\,Q^T, \]

    u random unit vectors of dim/2 numbers, \(f_i\) the composition of `nesting[i]` layers (a rotation, a bias, a leaky
    ReLU: all invertible), Q a rotation.

    Args:
        shortcut, core: predictivities ρ of the two.
        amplification: α, of the shortcut; the core's is 1.
        correlation: of the two features within a class.
        dim: numbers of x, even.
        nesting: layers of the shortcut and of the core.
        generator: draws embeddings; without one torch's global generator.

    Raises:
        ValueError: a predictivity outside (1/2, 1), amplification not positive, dim odd or below 2, negative nesting,
            or a correlation of ±1, at which the covariance is singular.

    Source: Hermann, Mobahi, Fel and Mozer, "On the Foundations of Shortcut Learning" (2023), section 3; the layers of
    the nesting are of our own definition.

    >>> task = ShortcutTask(0.85, 0.9, amplification=10.0, dim=6, generator=torch.Generator().manual_seed(0))
    >>> x, y, z = task.sample(5, torch.Generator().manual_seed(1))
    >>> x.shape, y.shape, z.shape
    (torch.Size([5, 6]), torch.Size([5]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        shortcut: float = 0.85,
        core: float = 0.9,
        *,
        amplification: float | int = 1.0,
        correlation: float | int = 0.6,
        dim: int = 20,
        nesting: tuple[int, int] = (0, 0),
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in (("shortcut", shortcut), ("core", core)):
            if not 0.5 < value < 1:
                raise ValueError(f"{name}={value} is a predictivity: it must lie inside (0.5, 1)")
        if not (amplification > 0 and math.isfinite(amplification)):
            raise ValueError(f"amplification={amplification} must be positive and finite")
        if not -1 < correlation < 1:
            raise ValueError(f"correlation={correlation} must lie inside (-1, 1): at ±1 the covariance is singular")
        if dim < 2 or dim % 2:
            raise ValueError(f"dim={dim} must be even and at least 2: each feature has one half")
        if min(nesting) < 0:
            raise ValueError(f"nesting={nesting}: numbers of layers are not negative")
        self.predictivity = (shortcut, core)
        self.amplification, self.correlation, self.dim = float(amplification), float(correlation), dim
        half = dim // 2
        double = {"generator": generator, "dtype": torch.float64}
        self.means = torch.special.ndtri(torch.tensor(self.predictivity, dtype=torch.float64))
        self.covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
        self.directions = torch.nn.functional.normalize(torch.randn(2, half, **double), dim=1)
        self.layers = [
            [(torch.linalg.qr(torch.randn(half, half, **double)).Q, torch.randn(half, **double) / half**0.5)
             for _ in range(depth)]
            for depth in nesting
        ]  # fmt: skip
        self.rotation = torch.linalg.qr(torch.randn(dim, dim, **double)).Q

    def embed(self, z: Float[Tensor, "samples 2"]) -> Float[Tensor, "samples dim"]:
        """Inputs that hold the two features, the shortcut's first."""
        z = z.double()
        parts = []
        for k, scale in enumerate((self.amplification, 1.0)):
            part = z[:, k, None] * self.directions[k]
            for weight, bias in self.layers[k]:
                part = torch.nn.functional.leaky_relu(part @ weight + bias, SLOPE)
            parts.append(scale * part)
        return torch.cat(parts, 1) @ self.rotation.T

    def sample(
        self, samples: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "samples dim"], Float[Tensor, " samples"], Float[Tensor, "samples 2"]]:
        """Inputs, labels ±1 (as many of each as can be) and the features behind them."""
        y = torch.ones(samples, dtype=torch.float64)
        y[torch.randperm(samples, generator=generator)[: samples // 2]] = -1
        noise = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
        z = y[:, None] * self.means + noise @ torch.linalg.cholesky(self.covariance).T
        return self.embed(z), y, z

    def optimal(self, z: Float[Tensor, "samples 2"]) -> Float[Tensor, " samples"]:
        r"""The log odds of y = 1 given both features, \(2\,\mu^T\Sigma^{-1} z\): what an unbiased model decides by."""
        return 2 * z.double() @ torch.linalg.solve(self.covariance, self.means)
