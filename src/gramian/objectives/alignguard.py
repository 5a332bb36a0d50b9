"""AlignGuard: a penalty that keeps a low-rank update out of the directions that an earlier behaviour hangs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["AlignGuardPenalty", "geodesic_overlap", "importance", "riemannian_overlap", "split", "top_directions"]


def top_directions(fisher: Float[Tensor, "out out"], m: int) -> tuple[Float[Tensor, " m"], Float[Tensor, "out m"]]:
    r"""The m largest eigenvalues of a layer's Fisher factor \(E[\delta \delta^\top]\), falling, and their vectors.

    Args:
        fisher: second moment of the loss's gradients at the layer's outputs.

    Raises:
        ValueError: m below 1 or above the number of outputs, a matrix that is not symmetric, or not finite.
    """
    if not 1 <= m <= len(fisher):
        raise ValueError(f"m={m} must lie between 1 and the layer's {len(fisher)} outputs")
    wide = fisher.detach().to(torch.promote_types(fisher.dtype, torch.float32))
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("the Fisher factor holds NaN or infinity")
    if float((wide - wide.T).abs().max()) > 1e-4 * float(wide.abs().max()):
        raise ValueError("the Fisher factor is not symmetric: it is a mean of outer products")
    values, vectors = torch.linalg.eigh(wide)
    return values[-m:].flip(0).clamp_min(0), vectors[:, -m:].flip(1)


def split(
    delta: Float[Tensor, "out in"], basis: Float[Tensor, "out m"]
) -> tuple[Float[Tensor, "out in"], Float[Tensor, "out in"]]:
    r"""An update's part in the protected directions, \(U U^\top \Delta W\), and the rest of it.

    >>> critical, rest = split(torch.eye(2), torch.tensor([[1.0], [0.0]]))
    >>> rest
    tensor([[0., 0.],
            [0., 1.]])
    """
    critical = basis @ (basis.T @ delta)
    return critical, delta - critical


def importance(weight: Float[Tensor, "out in"], beta: float = 4.0, tau: float = 0.01) -> Float[Tensor, "out in"]:
    r"""How much a collision at each weight counts: \(\eta = 1 + \beta\, \sigma(|W| - \tau)\)."""
    return 1 + beta * torch.sigmoid(weight.abs() - tau)


def riemannian_overlap(
    critical: Float[Tensor, "out in"], rest: Float[Tensor, "out in"], eta: Float[Tensor, "out in"]
) -> Float[Tensor, ""]:
    r"""Coordinates that both parts change: the mean of \(\eta_{ij}\, |A_{ij} T_{ij}|\)."""
    return (eta * (critical * rest).abs()).mean()


def geodesic_overlap(
    critical: Float[Tensor, "out in"],
    rest: Float[Tensor, "out in"],
    eta: Float[Tensor, "out in"],
    eps: float = 1e-12,
) -> Float[Tensor, ""]:
    r"""The squared cosine \(\langle A, T \rangle_\eta^2 / (\|A\|_\eta^2 \|T\|_\eta^2 + \epsilon)\), between 0 and 1.

    >>> a, ones = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2)
    >>> [round(float(geodesic_overlap(a, b, ones)), 4) for b in (-3 * a, torch.tensor([[2.0, -1.0]]))]
    [1.0, 0.0]
    """
    inner = (eta * critical * rest).sum()
    return inner.square() / ((eta * critical.square()).sum() * (eta * rest.square()).sum() + eps)


class AlignGuardPenalty:
    r"""What is added to the task's loss while low-rank updates ΔW of some layers are trained.

    With \(A = U_m U_m^\top \Delta W\) and \(T = \Delta W - A\), summed over the layers,

    \[ \lambda_A \|F^{1/2} A\|^2 + \lambda_T \|H^{1/2} \odot T\|^2 + \lambda_{NC}\,(\alpha\, E_\text{overlap} +
    (1 - \alpha)\, E_\text{geodesic}), \]

    where F is the layer's Fisher factor on the behaviour to keep and \(U_m\) its first m eigenvectors, so that the
    first term is \(\sum_k f_k \|u_k^\top \Delta W\|^2\); η of both overlaps is taken at the weight as it acts, W + ΔW.

    Args:
        fisher: layer → Fisher factor (out, out) of its outputs, on the data whose behaviour is to stay.
        weights: layer → the frozen weight W (out, in).
        m: how many directions are protected; layers of fewer outputs protect all of theirs only if asked for.
        alignment, task, collision: the strengths \(\lambda_A, \lambda_T, \lambda_{NC}\).
        alpha: share of the first overlap in the collision term.
        beta, tau: of `importance`.
        metric: layer → H (out, in), such as a diagonal Fisher matrix of the new task; ones without it.

    Raises:
        ValueError: layers or shapes that do not fit together, m outside a layer's outputs, alpha outside [0, 1], a
            negative or infinite strength, a negative metric.

    Source: Das et al. (2025). The paper leaves open which Fisher matrix of a layer is meant; here it is the factor
    of the outputs, as in Kronecker-factored approximations.

    >>> guard = AlignGuardPenalty({"0": torch.diag(torch.tensor([3.0, 1.0]))}, {"0": torch.zeros(2, 2)}, m=1, task=0,
    ...                           collision=0, alignment=1)
    >>> float(guard({"0": torch.tensor([[1.0, 2.0], [5.0, 5.0]])}))
    15.0
    """

    def __init__(
        self,
        fisher: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        *,
        m: int = 8,
        alignment: float | int = 0.25,
        task: float | int = 0.5,
        collision: float | int = 0.1,
        alpha: float | int = 0.5,
        beta: float | int = 4.0,
        tau: float | int = 0.01,
        metric: Mapping[str, Tensor] | None = None,
    ) -> None:
        if not fisher or set(fisher) != set(weights) or (metric is not None and set(metric) != set(fisher)):
            odd = ", ".join(sorted(set(fisher) ^ set(weights))[:5])
            raise ValueError(f"fisher, weights and metric must name the same layers; odd: {odd or 'none'}")
        for name, value in (("alignment", alignment), ("task", task), ("collision", collision), ("beta", beta)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be finite and not negative")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} must lie in [0, 1]: the share of one overlap against the other")
        for name, factor in fisher.items():
            shape = tuple(weights[name].shape)
            if len(shape) != 2 or tuple(factor.shape) != (shape[0], shape[0]):
                raise ValueError(f"{name!r}: the Fisher factor is {tuple(factor.shape)}, the weight {shape}")
            if metric is not None and (tuple(metric[name].shape) != shape or bool((metric[name] < 0).any())):
                raise ValueError(f"{name!r}: the metric must be non-negative and of the weight's shape {shape}")
        self.alignment, self.task, self.collision = float(alignment), float(task), float(collision)
        self.alpha, self.beta, self.tau = float(alpha), float(beta), float(tau)
        self.directions = {name: top_directions(factor, m) for name, factor in fisher.items()}
        self.weights = {name: weights[name].detach() for name in fisher}
        self.metric = None if metric is None else {name: h.detach() for name, h in metric.items()}

    def parts(self, deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The four terms without their strengths: ``alignment``, ``task``, ``overlap``, ``geodesic``.

        Raises:
            ValueError: other layers, or an update of another shape.
        """
        if set(deltas) != set(self.directions):
            odd = ", ".join(sorted(set(deltas) ^ set(self.directions))[:5])
            raise ValueError(f"updates are needed for the layers of the Fisher matrix and no other; odd: {odd}")
        terms: dict[str, list[Tensor]] = {"alignment": [], "task": [], "overlap": [], "geodesic": []}
        for name, update in deltas.items():
            if update.shape != self.weights[name].shape:
                shapes = f"{tuple(update.shape)}, its weight {tuple(self.weights[name].shape)}"
                raise ValueError(f"{name!r}: the update has shape {shapes}")
            delta = update.to(torch.promote_types(update.dtype, torch.float32))
            values, basis = (t.to(delta) for t in self.directions[name])
            critical, rest = split(delta, basis)
            eta = importance(self.weights[name].to(delta) + delta, self.beta, self.tau)
            squares = rest.square() if self.metric is None else self.metric[name].to(delta) * rest.square()
            terms["alignment"].append((values[:, None] * (basis.T @ delta).square()).sum())
            terms["task"].append(squares.sum())
            terms["overlap"].append(riemannian_overlap(critical, rest, eta))
            terms["geodesic"].append(geodesic_overlap(critical, rest, eta))
        return {name: torch.stack(values).sum() for name, values in terms.items()}

    def __call__(self, deltas: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The whole penalty, differentiable in the updates."""
        found = self.parts(deltas)
        collision = self.alpha * found["overlap"] + (1 - self.alpha) * found["geodesic"]
        return self.alignment * found["alignment"] + self.task * found["task"] + self.collision * collision

    def added_to(
        self, loss: Callable[..., Tensor], deltas: Callable[[nn.Module], Mapping[str, Tensor]]
    ) -> Callable[..., Tensor]:
        """A loss for `fit`: the given one plus the penalty on the updates that `deltas` reads off the module."""

        def guarded(module: nn.Module, *batch: Any) -> Tensor:
            return loss(module, *batch) + self(deltas(module))

        return guarded
