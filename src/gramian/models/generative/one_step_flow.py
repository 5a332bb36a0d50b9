r"""Flow matching between invertible networks: the sampling steps are matrices, and their product is one step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.invertible import InvertibleNet
from gramian.nn.linearizer import Linearizer

__all__ = ["OneStepFlow", "TimeMatrix"]

METHODS = ("euler", "rk4")


class TimeMatrix(nn.Module):
    r"""\(V(t) = P(t) Q(t)^\top\), whose factors a small network reads off sines and cosines of the time.

    Args:
        features: side of the matrix.
        rank: columns of the factors.
        hidden: units of the network.
        waves: frequencies π, 2π, 4π, … of the time.
        generator: source of the initial weights.

    Raises:
        ValueError: sizes below 1, or a rank over the side.
    """

    def __init__(
        self, features: int, *, rank: int, hidden: int = 64, waves: int = 4, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if min(features, hidden, waves) < 1 or not 1 <= rank <= features:
            raise ValueError(f"features={features}, hidden={hidden}, waves={waves} ≥ 1 and 1 ≤ rank={rank} ≤ features "
                             "are needed")  # fmt: skip
        self.features, self.rank = features, rank
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(waves))
        self.first, self.last = nn.Linear(2 * waves + 1, hidden), nn.Linear(hidden, 2 * features * rank)
        with torch.no_grad():
            for layer, gain in ((self.first, 1.0), (self.last, 0.1)):
                shape = layer.weight.shape
                layer.weight.copy_(torch.randn(shape, generator=generator) * gain / shape[1] ** 0.5)
                layer.bias.zero_()
            # products of two small factors hardly move at first: the constant part starts at 1/√rank
            self.last.bias.copy_(torch.randn(len(self.last.bias), generator=generator) / (features * rank) ** 0.25)

    def forward(self, t: Float[Tensor, " times"]) -> Float[Tensor, "times features features"]:
        """V at each time in [0, 1]."""
        angles = t[:, None] * self.frequencies
        read = torch.cat([t[:, None], angles.sin(), angles.cos()], 1)
        left, right = self.last(nn.functional.silu(self.first(read))).chunk(2, 1)
        shape = (-1, self.features, self.rank)
        return left.reshape(shape) @ right.reshape(shape).mT


class OneStepFlow(nn.Module):
    r"""A flow from noise to data that is linear in time between an encoder of noise and one of data.

    With latents \(u_0 = g_0(x_0)\) of noise and \(u_1 = g(x_1)\) of data, and \(u_t = (1 - t) u_0 + t u_1\), the matrix
    V(t) predicts the velocity \(u_1 - u_0\) from \(u_t\). A sample is \(g^{-1}\big(\prod_k (I + \Delta t\, V(t_k))\,
    g_0(x_0)\big)\): the product does not depend on the sample, so that it is computed once.

    Args:
        g: encoder of data.
        velocity: V.
        g_noise: encoder of noise; by default that of the data.

    Raises:
        ValueError: widths that differ.

    Source: Berman, Hallak & Shocher (2025), section 4.1.
    """

    def __init__(self, g: InvertibleNet, velocity: TimeMatrix, g_noise: InvertibleNet | None = None) -> None:
        super().__init__()
        self.g, self.velocity, self.g_noise = g, velocity, g if g_noise is None else g_noise
        if not g.features == velocity.features == self.g_noise.features:
            raise ValueError(f"widths {g.features} (data), {velocity.features} (velocity) and {self.g_noise.features} "
                             "(noise) must be the same")  # fmt: skip

    def loss(self, x: Float[Tensor, "batch *shape"], generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        r"""\(\tfrac12 \|V(t) u_t - (u_1 - u_0)\|^2 - \tfrac12 \log|\det J_g(x_1)| - \tfrac12 \log|\det J_{g_0}(x_0)|\).

        A mean over the batch and over the features, with fresh noise and times. The volumes keep the encoders from
        shrinking everything to a point, where any matrix would do; at given second moments they are largest where the
        latents are normal, which is when a linear flow carries one distribution into the other.
        """
        drawn = {"generator": generator, "dtype": x.dtype}
        noise = torch.randn(len(x), *self.g_noise.shape, **drawn).to(x.device)
        t = torch.rand(len(x), **drawn).to(x.device)
        start, volume_start = self.g_noise.forward_log_det(noise)
        end, volume_end = self.g.forward_log_det(x)
        now = torch.lerp(start, end, t[:, None])
        found = torch.einsum("nij,nj->ni", self.velocity(t), now)
        missed = (found - (end - start)).square().sum(1)
        return (missed - volume_start - volume_end).mean() / (2 * self.g.features)

    def step_matrices(
        self, steps: int, method: Literal["euler", "rk4"] = "euler"
    ) -> Float[Tensor, "steps features features"]:
        """What each sampling step multiplies the latents by.

        ``rk4`` is the classical Runge-Kutta step, its stages nested.

        Raises:
            ValueError: no step, or an unknown method.
        """
        if steps < 1:
            raise ValueError(f"steps={steps}: at least 1 is needed")
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
        weight = self.velocity.last.weight
        size = 1 / steps
        t = torch.arange(steps, dtype=weight.dtype, device=weight.device) / steps
        identity = torch.eye(self.g.features, dtype=weight.dtype, device=weight.device)
        first = self.velocity(t)
        if method == "euler":
            return identity + size * first
        middle, last = self.velocity(t + size / 2), self.velocity(t + size)
        second = middle @ (identity + size / 2 * first)
        third = middle @ (identity + size / 2 * second)
        fourth = last @ (identity + size * third)
        return identity + size / 6 * (first + 2 * second + 2 * third + fourth)

    @torch.no_grad()
    def sample(
        self, noise: Float[Tensor, "batch *shape"], steps: int = 100, method: Literal["euler", "rk4"] = "euler"
    ) -> Float[Tensor, "batch *shape"]:
        """Samples from noise, step by step."""
        latents = self.g_noise(noise)
        for matrix in self.step_matrices(steps, method):
            latents = latents @ matrix.mT
        return self.g.inverse(latents)

    @torch.no_grad()
    def collapse(self, steps: int = 100, method: Literal["euler", "rk4"] = "euler") -> Linearizer:
        """All steps as one: noise ↦ what `sample` makes of it, with one matrix between the encoders."""
        total, *rest = self.step_matrices(steps, method)
        for matrix in rest:
            total = matrix @ total
        return Linearizer(self.g_noise, total, self.g)
