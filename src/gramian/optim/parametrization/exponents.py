r"""The space of abc-parametrizations: powers of the width, which limits they have, and a model that follows them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gramian.optim.parametrization.rules import Rule, apply_rules
from gramian.optim.parametrization.shapes import Weight, weights

__all__ = ["ABC", "classify", "maximal_update", "mean_field", "neural_tangent", "standard"]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ABC:
    r"""\(W^l = n^{-a_l} w^l\), \(w^l_{ij} \sim N(0, n^{-2b_l})\), rate \(\eta n^{-c}\): a network with L hidden layers
    of width n, L + 1 weights, trained by SGD.

    Shifting \((a_l, b_l, c) \to (a_l + \theta, b_l - \theta, c - 2\theta)\) in every layer changes nothing.

    Args:
        a, b: a power for each layer, the output layer last.
        c: power of the learning rate.

    Raises:
        ValueError: fewer than two layers, a and b of different lengths, or a power that is not finite.

    Source: Yang and Hu, "Feature Learning in Infinite-Width Neural Networks" (2020), definitions 2.2 and 3.2.

    >>> maximal_update(2)
    ABC(a=(-0.5, 0.0, 0.5), b=(0.5, 0.5, 0.5), c=0.0)
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float | int

    def __post_init__(self) -> None:
        if len(self.a) != len(self.b) or len(self.a) < 2:
            raise ValueError(f"a={self.a}, b={self.b}: one power for each of at least two layers")
        if not all(math.isfinite(v) for v in (*self.a, *self.b, self.c)):
            raise ValueError(f"a={self.a}, b={self.b}, c={self.c}: every power must be finite")

    @property
    def r(self) -> float:
        r"""How features move: their change is of the order \(n^{-r}\).

        \(r = \min(a_{L+1} + b_{L+1},\, 2a_{L+1} + c) + c - 1 + \min_{l \le L} (2a_l + [l = 1])\).
        """
        moved = min(2 * a + (index == 0) for index, a in enumerate(self.a[:-1]))
        return min(self.a[-1] + self.b[-1], 2 * self.a[-1] + self.c) + self.c - 1 + moved

    def shifted(self, theta: float | int) -> ABC:
        """The same network, written with `theta` more in every multiplier."""
        return ABC(tuple(a + theta for a in self.a), tuple(b - theta for b in self.b), self.c - 2 * theta)

    def rules(
        self,
        model: nn.Module,
        base: Mapping[str, tuple[int, ...]] | nn.Module,
        *,
        sigma: float | int = 1.0,
        tied: Collection[str] = (),
    ) -> list[Rule]:
        """What the powers ask of each parameter, the width counted in the base model's.

        Biases are weights from one constant input: they take the first layer's multiplier; those of the output layer,
        which do not grow, keep multiplier and rate 1.

        Raises:
            ValueError: a model that is not a chain of L + 1 matrices whose hidden sides grow alike.
        """
        found = weights(model, base, tied=tied)
        matrices = [w for w in found if w.parameter.ndim > 1]
        if len(matrices) != len(self.a):
            raise ValueError(f"{len(self.a)} powers for a model of {len(matrices)} matrices: give one for each")
        grown = {w.grown_out for w in matrices[:-1]} | {w.grown_in for w in matrices[1:]}
        if len(grown) != 1 or matrices[0].grown_in != 1 or matrices[-1].grown_out != 1:
            raise ValueError(f"the hidden widths must grow alike, inputs and outputs not at all; found {sorted(grown)}")
        return [self._rule(w, matrices, next(iter(grown)), float(sigma)) for w in found]

    def _rule(self, weight: Weight, matrices: list[Weight], n: float, sigma: float) -> Rule:
        if weight.parameter.ndim > 1:
            layer = matrices.index(weight)
            std = sigma / math.sqrt(weight.fan_in / weight.grown_in) * n ** -self.b[layer]
            return Rule(weight, n ** -self.a[layer], std, n**-self.c)
        start = 0.0 if weight.attribute == "bias" and isinstance(weight.owner, nn.Linear) else None
        if weight.role == "fixed" and n != 1:
            return Rule(weight, 1.0, start, 1.0)
        return Rule(weight, n ** -self.a[0], start, n**-self.c)

    def apply(
        self,
        model: nn.Module,
        base: Mapping[str, tuple[int, ...]] | nn.Module,
        *,
        lr: float | int,
        sigma: float | int = 1.0,
        generator: torch.Generator | None = None,
        force: bool = False,
        tied: Collection[str] = (),
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The model, changed in place, and the groups for SGD.

        Args:
            model: a chain of L + 1 matrices, registered in the order of its layers.
            base: shapes of the same network at the width that counts as 1, or that network.
            lr, sigma: η, and the scale of the start: at base width the standard deviation is σ/√fan-in.
            force: apply powers that run away or that change nothing.

        Raises:
            ValueError: powers without a stable, nontrivial limit (unless forced), or a model that does not fit.
        """
        kind = classify(self)
        if kind in ("unstable", "trivial") and not force:
            raise ValueError(f"these powers are {kind} as the width grows (r = {self.r:g}); force=True applies them")
        rules = self.rules(model, base, sigma=sigma, tied=tied)
        return model, apply_rules(rules, lr=lr, generator=generator)


def classify(abc: ABC) -> str:
    r"""What becomes of the network as its width grows: ``unstable``, ``trivial``, ``kernel`` or ``feature``.

    Stable: \(a_1 + b_1 = 0\), \(a_l + b_l = 1/2\) in the hidden layers, \(a_{L+1} + b_{L+1} \ge 1/2\), \(r \ge 0\),
    \(2a_{L+1} + c \ge 1\) and \(a_{L+1} + b_{L+1} + r \ge 1\). Nontrivial: one of the last two with equality. Then
    features move if r = 0, and otherwise the limit is kernel gradient descent.

    Source: Yang and Hu (2020), theorem 3.3 and corollaries.

    >>> classify(standard(2)), classify(standard(2, c=1)), classify(neural_tangent(2)), classify(maximal_update(2))
    ('unstable', 'kernel', 'kernel', 'feature')
    """
    starts = [abc.a[0] + abc.b[0]] + [a + b - 0.5 for a, b in zip(abc.a[1:-1], abc.b[1:-1])]
    last = abc.a[-1] + abc.b[-1]
    moves = (2 * abc.a[-1] + abc.c - 1, last + abc.r - 1)
    if any(abs(s) > _TOLERANCE for s in starts) or min(last - 0.5, abc.r, *moves) < -_TOLERANCE:
        return "unstable"
    if min(moves) > _TOLERANCE:
        return "trivial"
    return "feature" if abs(abc.r) <= _TOLERANCE else "kernel"


def standard(hidden: int = 1, c: float | int = 0.0) -> ABC:
    """Multipliers 1, variances 1/fan-in; the rate as given, which is unstable below c = 1."""
    return ABC((0.0,) * (hidden + 1), (0.0,) + (0.5,) * hidden, float(c))


def neural_tangent(hidden: int = 1) -> ABC:
    """Multipliers 1/√fan-in before entries of unit variance, one rate."""
    return ABC((0.0,) + (0.5,) * hidden, (0.0,) * (hidden + 1), 0.0)


def mean_field() -> ABC:
    """One hidden layer, output 1/n times a sum over neurons, rate n."""
    return ABC((0.0, 1.0), (0.0, 0.0), -1.0)


def maximal_update(hidden: int = 1) -> ABC:
    """The powers under which every layer's features move as much as they can."""
    return ABC((-0.5,) + (0.0,) * (hidden - 1) + (0.5,), (0.5,) * (hidden + 1), 0.0)
