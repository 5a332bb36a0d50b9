r"""Learning rates from the curvature of the batch that is used, not of the whole data.

The Hessian of a batch of \(B\) of \(N\) samples is the full one plus noise whose entries have variance
\(\sigma^2/b\), \(b = B/(1 - B/N)\). Noise pushes the largest eigenvalue \(\lambda\) outwards, to
\(\lambda + (P/b)\,\sigma^2/\lambda\) with \(P\) parameters, and the largest stable rate, \(2/\lambda_1(B)\), down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gramian.linalg.spectral import lanczos, random_matrix
from gramian.optim import curvature

__all__ = ["HessianNoise", "LanczosLR", "effective_batch", "hessian_noise", "max_learning_rate"]

Loss = Callable[..., Tensor]


def effective_batch(batch: int | float, samples: int) -> float:
    """B = B / (1 − B/N): sampling without replacement, so that the whole data have no noise (infinite b).

    Raises:
        ValueError: B outside [1, N].

    >>> effective_batch(50, 100)
    100.0
    """
    if not 1 <= batch <= samples:
        raise ValueError(f"batch={batch} must lie between 1 and the number of samples, {samples}")
    return math.inf if batch == samples else batch / (1 - batch / samples)


@dataclass(frozen=True)
class HessianNoise:
    r"""What predicts a batch's curvature.

    Attributes:
        top: λ, the largest eigenvalue over all samples.
        variance: Pσ², the noise's strength: the summed variance of a sample's Hessian times the top eigenvector.
        size: P, the parameters.
        samples: N.
    """

    top: float
    variance: float
    size: int
    samples: int

    def largest(self, batch: int | float) -> float:
        """The predicted largest eigenvalue of a batch's Hessian, at least the edge of the noise.

        Raises:
            ValueError: a batch outside [1, N].
        """
        strength = self.variance / effective_batch(batch, self.samples)
        noise = math.sqrt(strength / self.size)
        return float(random_matrix.spiked_eigenvalues(torch.tensor([max(self.top, 0.0)], dtype=torch.float64), noise,
                                                      self.size)[0])  # fmt: skip

    @property
    def threshold(self) -> float:
        """The batch size at which the top eigenvalue leaves the noise, (Pσ²/λ²), in effective samples."""
        return self.variance / self.top**2


def hessian_noise(
    module: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    *,
    group: int = 8,
    draws: int = 24,
    steps: int = 40,
    generator: torch.Generator | None = None,
) -> HessianNoise:
    r"""Measure top eigenvalue and noise at the module's present parameters.

    The noise comes from random batches of `group` samples and the top eigenvector \(u\): the squared norm of
    \((H_{\text{batch}} - H) u\) is \(P\sigma^2/b\) in the mean. (Real noise is not white; what moves the top
    eigenvalue, to second order, is the noise that its eigenvector meets.)

    Args:
        loss: (module, *batch) → the batch's mean loss.
        data: tensors of one length, samples first.
        draws: random batches.
        steps: Lanczos products for the top eigenvalue.

    Raises:
        ValueError: a group outside [1, N), fewer than one draw, or curvature that is not finite.
    """
    samples = len(data[0])
    if not 1 <= group < samples:
        raise ValueError(f"group={group} must be at least 1 and below the number of samples, {samples}")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    full = curvature.Hessian(module, loss, data)
    krylov = _krylov(full, steps, generator)
    values, vectors = krylov.ritz()
    top = float(values[-1])
    v = krylov.basis @ vectors[:, -1].to(krylov.basis.dtype)
    field, found = full(v), 0.0
    for _ in range(draws):
        chosen = torch.randperm(samples, generator=generator)[:group]
        part = curvature.Hessian(module, loss, [t[chosen] for t in data], full.layout)
        found += float((part(v) - field).square().sum())
    # without replacement: E‖(H_B − H)v‖² = Pσ² (1 − B/N) / B
    return HessianNoise(top, found / draws * effective_batch(group, samples), full.size, samples)


def _krylov(operator: curvature.Hessian, steps: int, generator: torch.Generator | None) -> lanczos.Lanczos:
    to = {"dtype": operator.point.dtype, "device": operator.point.device}
    return lanczos.lanczos(operator, operator.size, steps, generator=generator, **to)


def max_learning_rate(
    module: nn.Module,
    loss: Loss,
    data: Sequence[Tensor],
    batch: int,
    *,
    measured: bool = False,
    repeats: int = 5,
    steps: int = 30,
    generator: torch.Generator | None = None,
) -> float:
    r"""The largest stable rate of SGD with batches of a size, \(2/\lambda_1(B)\), at the present parameters.

    Args:
        data: tensors of one length, samples first.
        batch: B.
        measured: average the top eigenvalue of `repeats` batches by Lanczos, in place of predicting it.

    Raises:
        ValueError: a batch outside [1, N], or no positive curvature here.

    Source: Granziol, Zohren and Roberts, Learning Rates as a Function of Batch Size (2020), section 4.
    """
    samples = len(data[0])
    effective_batch(batch, samples)
    if not measured:
        top = hessian_noise(module, loss, data, steps=steps, generator=generator).largest(batch)
    else:
        tops = []
        for _ in range(repeats if batch < samples else 1):
            chosen = torch.randperm(samples, generator=generator)[:batch]
            operator = curvature.Hessian(module, loss, [t[chosen] for t in data])
            tops.append(float(_krylov(operator, steps, generator).ritz()[0][-1]))
        top = sum(tops) / len(tops)
    if not top > 0:
        raise ValueError(f"the largest curvature is {top:.3g}: gradient descent has no largest stable rate here")
    return 2 / top


class LanczosLR:
    r"""A scheduler that sets SGD's learning rate and momentum from the present batch's spectrum.

    Every `every` steps a few Lanczos products with the batch's Hessian give its extreme eigenvalues; then, as for a
    quadratic with condition number \(\kappa = \lambda_1/\mu\),

    \[ \text{lr} = \frac{\text{scale} \cdot 4}{(\sqrt{\lambda_1} + \sqrt{\mu})^2}, \qquad
       \text{momentum} = \left(\frac{\sqrt\kappa - 1}{\sqrt\kappa + 1}\right)^2, \]

    with \(\mu\) the median of the positive Ritz values, since the least one is near zero in any network.

    Args:
        optimizer: SGD; its groups' ``lr`` (and ``momentum``, if they use it) are set.
        scale: share of the stable rate.
        momentum: False leaves momentum alone and takes lr = scale · 2/λ₁.

    Raises:
        ValueError: a scale that is not positive, or fewer than 2 Lanczos steps.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        module: nn.Module,
        loss: Loss,
        *,
        every: int = 20,
        steps: int = 12,
        scale: float = 0.5,
        momentum: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"scale={scale} must be positive")
        if steps < 2 or every < 1:
            raise ValueError(f"steps={steps} must be at least 2 and every={every} at least 1")
        self.optimizer, self.module, self.loss = optimizer, module, loss
        self.every, self.steps, self.scale, self.momentum = every, steps, scale, momentum
        self.generator = generator
        self.calls = 0
        self.history: list[dict[str, float]] = []

    def step(self, *batch: Any) -> None:
        """Call before the optimizer's step, with the batch that it will use."""
        if self.calls % self.every == 0:
            operator = curvature.Hessian(self.module, self.loss, batch)
            values = _krylov(operator, self.steps, self.generator).ritz()[0]
            positive = values[values > 0]
            if len(positive):
                self._choose(float(positive[-1]), float(positive.median()))
        self.calls += 1
        if self.history:  # at every call, since another scheduler may have written in between
            for group in self.optimizer.param_groups:
                group["lr"] = self.history[-1]["lr"]
                if self.momentum and "momentum" in group:
                    group["momentum"] = self.history[-1]["momentum"]

    def _choose(self, top: float, low: float) -> None:
        rate, momentum = 2 * self.scale / top, 0.0
        if self.momentum:
            rate = 4 * self.scale / (math.sqrt(top) + math.sqrt(low)) ** 2
            momentum = ((math.sqrt(top) - math.sqrt(low)) / (math.sqrt(top) + math.sqrt(low))) ** 2
        self.history.append({"call": self.calls, "top": top, "lr": rate, "momentum": momentum})
