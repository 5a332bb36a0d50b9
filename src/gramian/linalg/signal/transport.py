"""Entropic optimal transport between clouds of points, in logarithms."""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NotConverged", "half_squared_distance", "sinkhorn_divergence", "transport_cost"]


class NotConverged(UserWarning):
    """Sinkhorn's iteration stopped before the potentials settled; the message says how far they still moved."""


def half_squared_distance(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch m d"]
) -> Float[Tensor, "*batch n m"]:
    """½|x − y|² for all pairs."""
    return 0.5 * (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)


def _potentials(cost: Tensor, eps: float, iterations: int, tolerance: float, same: bool) -> tuple[Tensor, Tensor]:
    """Dual potentials for uniform weights; ε falls from the cost's range to its value, which takes far fewer steps."""
    f, g = torch.zeros_like(cost[..., 0]), torch.zeros_like(cost[..., 0, :])
    scale = max(float(cost.max()), eps)
    stages = max(1, math.ceil(math.log(scale / eps, 2))) + 1
    moved = math.inf
    for step in range(iterations + stages):
        now = max(eps, scale * 0.5**step)

        def soft(h: Tensor, matrix: Tensor, now: float = now) -> Tensor:
            return -now * (torch.logsumexp((h[..., None, :] - matrix) / now, -1) - math.log(matrix.shape[-1]))

        if same:  # averaged: the plain update of a cloud with itself swings about its fixed point
            new = 0.5 * (f + soft(f, cost))
            moved, f = float((new - f).abs().max()), new
            g = f
        else:
            g_new = soft(f, cost.mT)
            f_new = soft(g_new, cost)
            moved, f, g = float((f_new - f).abs().max()), f_new, g_new
        if now == eps and moved <= tolerance * scale:
            break
    else:
        warnings.warn(
            f"after {iterations} iterations at eps={eps:g} the potentials still move by {moved:.2g}; "
            "give more iterations or a larger eps",
            NotConverged,
            stacklevel=3,
        )
    return f, g


def transport_cost(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    eps: float,
    iterations: int = 500,
    tolerance: float = 1e-7,
) -> Float[Tensor, "*batch"]:
    r"""The entropic cost of moving one cloud of equal masses onto another.

    Leading axes are pairs of clouds that are solved together; clouds of n and m points have masses 1/n and 1/m.

    \(\mathrm{OT}_\epsilon = \min_\pi \langle\pi, C\rangle + \epsilon\,\mathrm{KL}(\pi\,|\,a\otimes b)\) with
    C = ½|x − y|². The gradient with respect to the points is that of \(\langle\pi, C\rangle\) at the optimal plan (the
    envelope theorem); the iteration is not differentiated.

    Raises:
        ValueError: eps that is not positive, an empty cloud, NaN.

    Source: Cuturi (2013); Feydy et al., "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences"
    (2019), section 3.
    """
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps={eps} must be positive and finite")
    if not x.shape[-2] or not y.shape[-2]:
        raise ValueError("a cloud of points is empty")
    cost = half_squared_distance(x, y)
    if not bool(torch.isfinite(cost.detach()).all()):
        raise ValueError("the points hold NaN or infinity")
    with torch.no_grad():
        wide = cost.detach().double()
        f, g = _potentials(wide, eps, iterations, tolerance, x is y)
        value = f.mean(-1) + g.mean(-1)
        plan = torch.exp((f[..., :, None] + g[..., None, :] - wide) / eps)
        # of a plan that is not quite converged, the mass is put right
        plan = (plan / plan.sum((-2, -1), keepdim=True)).to(cost.dtype)
    # the value of the dual, with the gradient of the plan's cost
    through = (plan * cost).sum((-2, -1))
    return through + (value.to(cost.dtype) - through.detach())


def sinkhorn_divergence(
    x: Float[Tensor, "*batch n d"],
    y: Float[Tensor, "*batch m d"],
    eps: float,
    iterations: int = 500,
    tolerance: float = 1e-7,
) -> Float[Tensor, "*batch"]:
    r"""The entropic cost, less half of what each cloud costs with itself.

    \(S_\epsilon(x, y) = O(x, y) - \tfrac12 O(x, x) - \tfrac12 O(y, y)\), with O the `transport_cost`, is not negative,
    and zero only for equal clouds. With the cost ½|x − y|² it goes to ½|mean gap|² for large ε and to ½W₂² for small.

    Source: Genevay et al., "Learning Generative Models with Sinkhorn Divergences" (2018).

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> round(float(sinkhorn_divergence(x, x + 2, eps=0.1)), 4)  # ½ · 2²
    2.0
    """
    settings = (eps, iterations, tolerance)
    return transport_cost(x, y, *settings) - 0.5 * (transport_cost(x, x, *settings) + transport_cost(y, y, *settings))
