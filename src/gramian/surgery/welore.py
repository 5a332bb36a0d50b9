r"""WeLore: one threshold on normalized singular values decides the rank of every matrix, and which to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor import lowrank
from gramian.nn.low_rank import LowRankLinear
from gramian.surgery import allocate
from gramian.surgery.swap import Handle, find, swap

__all__ = ["Component", "Plan", "apply_plan", "plan", "plan_spectra", "spectra_of"]


@dataclass(frozen=True)
class Component:
    """What is planned for one matrix.

    Attributes:
        rank: singular values kept.
        full: how many there are.
        kind: ``"LRC"``, low rank enough to be stored and trained as factors, or ``"N-LRC"``, dense and frozen.
        pays: whether two factors of that rank hold fewer numbers than the matrix.
    """

    rank: int
    full: int
    kind: Literal["LRC", "N-LRC"]
    pays: bool

    @property
    def reduction(self) -> float:
        """The share of the rank that is given up."""
        return 1 - self.rank / self.full


@dataclass(frozen=True)
class Plan:
    """Ranks of all matrices.

    Attributes:
        components: by layer name.
        threshold: singular values of at least this share of their matrix's largest are kept; NaN for a solver
            that has no one threshold.
        reduction: the mean reduction of rank that was reached.
    """

    components: dict[str, Component]
    threshold: float
    reduction: float

    @property
    def ranks(self) -> dict[str, int]:
        return {n: c.rank for n, c in self.components.items()}


def spectra_of(model: nn.Module, layers: str | Iterable[str] = "*") -> dict[str, Float[Tensor, " values"]]:
    """The singular values of every matching linear layer's weight, largest first; a tied layer under its first name.

    Raises:
        ValueError: no layer matches, or a weight with NaN or infinity.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, layer in find(model, layers, nn.Linear).items():
        if id(layer.weight) in seen:
            continue  # tied: factorized once
        seen.add(id(layer.weight))
        weight = layer.weight.detach()
        if not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name}: its weight holds NaN or infinity")
        found[name] = torch.linalg.svdvals(weight.float() if weight.dtype != torch.float64 else weight)
    return found


def plan_spectra(
    spectra: Mapping[str, Float[Tensor, " _"]],
    shapes: Mapping[str, tuple[int, int]],
    reduction: float,
    min_ratio: float | int = 0.5,
    solver: str = "threshold",
) -> Plan:
    r"""Ranks such that the mean of \(1 - r_l / \mathrm{full}_l\) over the matrices is the reduction asked for.

    ``"threshold"`` is WeLore's rule: \(r_l = \#\{ i : \sigma_{l,i} / \sigma_{l,1} \ge t \}\), one t for all, found by
    bisection. ``"greedy"`` and ``"milp"`` instead minimize the squared error \(\sum_l \sum_{i > r_l} \sigma_{l,i}^2\)
    under the same budget of rank shares (`gramian.surgery.allocate.allocate`).

    Args:
        spectra: singular values by layer, largest first.
        shapes: of the weights, to say whether factors pay.
        reduction: of rank, in (0, 1).
        min_ratio: matrices whose reduction is above this are low rank components (LRC), the others are not.

    Raises:
        ValueError: a reduction or ratio out of range, no spectra, a matrix of zeros, a reduction so large that a matrix
            would keep no rank (with a threshold each keeps at least one), an unknown solver.

    Source: Jaiswal et al., From GaLore to WeLore (2024), section 3.
    """
    if not 0 < reduction < 1:
        raise ValueError(f"reduction={reduction} is a share of the rank between 0 and 1")
    if not 0 <= min_ratio < 1:
        raise ValueError(f"min_ratio={min_ratio} is a share of the rank in [0, 1)")
    if not spectra:
        raise ValueError("no spectra to plan ranks for")
    normalized = {}
    for name, values in spectra.items():
        if not len(values) or not bool(values[0] > 0):
            raise ValueError(f"{name} is a matrix of zeros: it has no rank to reduce")
        normalized[name] = (values / values[0]).double()
    most = float(np.mean([1 - 1 / len(v) for v in normalized.values()]))
    if reduction > most:
        raise ValueError(f"reduction={reduction} leaves a matrix without rank; the largest possible is {most:.4f}")
    threshold = float("nan")
    if solver == "threshold":
        threshold = _bisect(list(normalized.values()), reduction)
        ranks = {n: int((v >= threshold).sum()) for n, v in normalized.items()}
    else:
        ranks = _optimal(spectra, reduction, solver)
    components = {}
    for name, values in spectra.items():
        rank, full = ranks[name], len(values)
        kind = "LRC" if 1 - rank / full > min_ratio else "N-LRC"
        components[name] = Component(rank, full, kind, rank <= lowrank.break_even_rank(*shapes[name]))
    return Plan(components, threshold, float(np.mean([c.reduction for c in components.values()])))


def _bisect(normalized: list[Tensor], reduction: float) -> float:
    """The lowest threshold whose mean reduction reaches the target; the reduction rises with the threshold."""
    low, high = 0.0, 1.0

    def reached(threshold: float) -> bool:
        return float(np.mean([float((v < threshold).double().mean()) for v in normalized])) >= reduction

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _optimal(spectra: Mapping[str, Tensor], reduction: float, solver: str) -> dict[str, int]:
    counts = [len(v) for v in spectra.values()]
    cost, weight, allowed = allocate.energy_curves(list(spectra.values()), [1 / c for c in counts])
    allowed[:, 0] = False
    budget = (1 - reduction) * len(counts) * (1 + 1e-12)
    return dict(zip(spectra, allocate.allocate(cost, weight, budget, solver, allowed=allowed).choice, strict=True))


def plan(
    model: nn.Module,
    reduction: float,
    layers: str | Iterable[str] = "*",
    min_ratio: float | int = 0.5,
    solver: str = "threshold",
) -> Plan:
    """`plan_spectra` of a model's linear layers: no data, one decomposition of each weight.

    Raises:
        ValueError: as `spectra_of` and `plan_spectra`.

    >>> net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    >>> round(plan(net, 0.5).reduction, 1)
    0.5
    """
    spectra = spectra_of(model, layers)
    shapes = {n: tuple(model.get_submodule(n).weight.shape) for n in spectra}
    return plan_spectra(spectra, shapes, reduction, min_ratio, solver)


def apply_plan(model: nn.Module, planned: Plan, *, everything: bool = False, freeze: bool = True) -> Handle:
    r"""Replace the low rank components by factors \(U \sqrt S\), \(\sqrt S V^T\), in place.

    The others stay dense. The handle undoes all of it, the flags of gradients of what was replaced included.

    Args:
        everything: True cuts the other matrices to their rank as well, kept dense where factors do not pay: the plan
            as a compression of the whole model.
        freeze: whether all parameters of the model but the factors are frozen: what WeLore trains are the low rank
            components alone. The caller unfreezes what it wants trained besides.

    Raises:
        ValueError: a plan for another model, or nothing to replace.
    """
    names = set(find(model, list(planned.components), nn.Linear))
    missing = set(planned.components) - names
    if missing:
        raise ValueError(f"the plan names layers that the model lacks: {', '.join(sorted(missing)[:4])}")
    chosen = {n: c for n, c in planned.components.items() if everything or c.kind == "LRC"}
    if not chosen:
        raise ValueError("no matrix is a low rank component; lower min_ratio or raise the reduction")

    def replace(name: str, layer: nn.Module) -> nn.Module:
        component = chosen[name]
        factors = lowrank.truncated_svd(layer.weight.detach(), component.rank)
        low = LowRankLinear.from_factors(factors.left, factors.right, layer.bias)
        return low if component.pays or component.kind == "LRC" else low.merged()

    handle = swap(model, list(chosen), replace, nn.Linear)
    if freeze:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in handle.replacements.values():
            if isinstance(module, LowRankLinear):
                module.up.requires_grad_(True)
                module.down.requires_grad_(True)
    return handle
