"""The unconstrained features model: a network's last layers and the features before them, both free to choose."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["FeaturesNotConverged", "Optimum", "UnconstrainedFeatures"]


class FeaturesNotConverged(UserWarning):
    """The gradient at the end of the minimization was not small."""


class Optimum(NamedTuple):
    """Where the minimization ended.

    Attributes:
        value: of the objective.
        weights: the layers, first to last.
        features: (dim, samples), ordered by class.
        bias: of the last layer; zeros where the model has none.
        residual: largest entry of the gradient.
    """

    value: float
    weights: list[Float[Tensor, "_ _"]]
    features: Float[Tensor, "dim samples"]
    bias: Float[Tensor, " classes"]
    residual: float

    @property
    def product(self) -> Float[Tensor, "classes dim"]:
        """All layers as one: the classifier that the features meet."""
        found = self.weights[0]
        for weight in self.weights[1:]:
            found = weight @ found
        return found


class UnconstrainedFeatures:
    r"""Layers \(W_1 … W_M\) and features H that minimize a loss with weight decay on both.

    \[ \ell(W_M \cdots W_1 H + b 1^\top,\, Y) + \sum_i \tfrac{\lambda_i}2 \|W_i\|_F^2
       + \tfrac{\lambda_H}2 \|H - H_0\|_F^2, \]

    with \(\ell = \frac1{2N}\|\cdot - Y\|_F^2\) for one-hot Y (``"mse"``) or the mean cross-entropy (``"ce"``), and
    \(H_0 = 0\) unless the features are to stay near given ones. All in float64.

    Args:
        counts: samples of each class.
        dim: of the features and of every layer between.
        weight_decay: λ of each layer, first to last: as many layers as numbers.
        feature_decay: λ_H.
        loss: ``"mse"`` or ``"ce"``.
        bias: whether the last layer has one; it is not decayed.
        near: H₀, (dim, samples).

    Attributes:
        labels: (samples,) in order of the classes.
        targets: one-hot Y, (classes, samples).

    Raises:
        ValueError: fewer than two classes, an empty class, fewer dimensions than classes, a decay that is not
            positive, or H₀ of another shape.

    >>> model = UnconstrainedFeatures((5, 5, 5), dim=4, weight_decay=(1e-3,), feature_decay=1e-3)
    >>> best = model.minimize(generator=torch.Generator().manual_seed(0))
    >>> means = best.features.view(4, 3, 5).mean(-1)  # collapsed, and at right angles
    >>> (means.T @ means / means.square().sum(0)).round(decimals=4).abs()
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        counts: Sequence[int],
        dim: int,
        weight_decay: Sequence[float],
        feature_decay: float,
        *,
        loss: Literal["mse", "ce"] = "mse",
        bias: bool = False,
        near: Float[Tensor, "dim samples"] | None = None,
    ) -> None:
        if len(counts) < 2 or min(counts) < 1:
            raise ValueError(f"counts={tuple(counts)}: at least two classes are needed, each with a sample")
        if dim < len(counts):
            raise ValueError(f"dim={dim} is less than the {len(counts)} classes: their frame does not fit")
        if not weight_decay or min(weight_decay) <= 0 or feature_decay <= 0:
            raise ValueError(
                f"weight_decay={tuple(weight_decay)}, feature_decay={feature_decay}: every decay must be positive, "
                "or the minimum is not attained"
            )
        if loss not in ("mse", "ce"):
            raise ValueError(f"loss={loss!r} is neither 'mse' nor 'ce'")
        self.counts, self.dim, self.loss, self.bias = tuple(counts), dim, loss, bias
        self.weight_decay, self.feature_decay = tuple(map(float, weight_decay)), float(feature_decay)
        self.samples = sum(counts)
        if near is not None and near.shape != (dim, self.samples):
            raise ValueError(f"near has shape {tuple(near.shape)}; the features have ({dim}, {self.samples})")
        self.near = None if near is None else near.double()
        self.labels: Int[Tensor, " samples"] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self.targets = torch.nn.functional.one_hot(self.labels, len(counts)).double().T.contiguous()

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.counts)

    def objective(
        self, weights: Sequence[Tensor], features: Float[Tensor, "dim samples"], bias: Float[Tensor, " classes"]
    ) -> Float[Tensor, ""]:
        """What is minimized."""
        return self._objective(weights, features, bias)

    def _objective(self, weights: Sequence[Tensor], features: Tensor, bias: Tensor) -> Tensor:
        out = features
        for weight in weights:
            out = weight @ out
        if self.bias:
            out = out + bias[:, None]
        if self.loss == "mse":
            value = (out - self.targets).square().sum() / (2 * self.samples)
        else:
            value = torch.nn.functional.cross_entropy(out.T, self.labels)
        for decay, weight in zip(self.weight_decay, weights):
            value = value + decay / 2 * weight.square().sum()
        moved = features if self.near is None else features - self.near
        return value + self.feature_decay / 2 * moved.square().sum()

    def minimize(
        self,
        generator: torch.Generator | None = None,
        *,
        steps: int = 5000,
        scale: float = 0.5,
        tolerance: float = 1e-8,
        start: Optimum | None = None,
    ) -> Optimum:
        """Minimize by L-BFGS from a random start, or from another optimum.

        Args:
            generator: draws the start.
            steps: of L-BFGS, at most.
            scale: standard deviation of the start's entries, over √dim for the layers.
            tolerance: of the largest entry of the gradient.
            start: where to begin instead.

        Raises:
            ValueError: a start from another shape of model.

        Warns:
            FeaturesNotConverged: the gradient is over a hundred times the tolerance at the end.
        """
        from scipy.optimize import minimize

        shapes = [(self.dim, self.dim)] * (len(self.weight_decay) - 1) + [(self.classes, self.dim)]
        shapes += [(self.dim, self.samples), (self.classes,)]
        if start is None:
            sizes = [scale / self.dim**0.5] * (len(shapes) - 2) + [scale, 0.0]
            parts = [
                s * torch.randn(shape, generator=generator, dtype=torch.float64) for s, shape in zip(sizes, shapes)
            ]
        else:
            parts = [*start.weights, start.features, start.bias]
            if [tuple(p.shape) for p in parts] != shapes:
                raise ValueError(f"the start has shapes {[tuple(p.shape) for p in parts]}, the model {shapes}")
        lengths = [p.numel() for p in parts]

        def split(flat: Tensor) -> list[Tensor]:
            return [p.view(shape) for p, shape in zip(flat.split(lengths), shapes)]

        def value(point: np.ndarray) -> tuple[float, np.ndarray]:
            flat = torch.tensor(point, requires_grad=True)
            *weights, features, bias = split(flat)
            found = self._objective(weights, features, bias)
            (gradient,) = torch.autograd.grad(found, flat)
            return float(found.detach()), gradient.numpy()

        begin = torch.cat([p.reshape(-1) for p in parts]).numpy()
        options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": tolerance}
        found = minimize(value, begin, jac=True, method="L-BFGS-B", options=options)
        residual = float(np.abs(found.jac).max())
        if residual > 100 * tolerance:
            message = f"gradient {residual:.1e} after {found.nit} steps, {tolerance:.0e} was asked for: give more steps"
            warnings.warn(message, FeaturesNotConverged, stacklevel=2)
        *weights, features, bias = split(torch.tensor(found.x))
        return Optimum(float(found.fun), weights, features, bias, residual)
