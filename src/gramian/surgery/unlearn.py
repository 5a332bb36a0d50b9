"""Selective synaptic dampening: make a trained network forget some of its data without training it again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.fisher.accumulator import FisherAccumulator

__all__ = ["DampeningReport", "NothingSelected", "ssd", "total_fisher"]

Fisher = Mapping[str, Tensor]
Batches = Iterable[tuple[Any, Any]]


class NothingSelected(UserWarning):
    """No weight passed the threshold: the network is as it was."""


@dataclass
class DampeningReport:
    """What selective dampening did.

    Attributes:
        alpha: the threshold used.
        selected: parameter → how many of its numbers were dampened.
        sizes: parameter → how many numbers it has.
        factor: parameter → the mean factor of the dampened ones (1 where none was).
    """

    alpha: float
    selected: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    factor: dict[str, float] = field(default_factory=dict)

    @property
    def n_selected(self) -> int:
        return sum(self.selected.values())

    @property
    def share(self) -> float:
        return self.n_selected / max(1, sum(self.sizes.values()))


def total_fisher(
    model: nn.Module, batches: Batches, *, cache: str | Path | None = None, **options: Any
) -> dict[str, Float[Tensor, "..."]]:
    """The diagonal empirical Fisher matrix of a network on (inputs, targets) batches, kept in a file if one is named.

    Args:
        cache: a safetensors file: read if it is there, written otherwise. Do not reuse one for other weights.
        options: of `FisherAccumulator`; ``gradients="batch"`` squares batch gradients, as public code does.

    Raises:
        ValueError: no batch, a network in training mode, or a cache of another network.
    """
    fisher = FisherAccumulator(model, "diag", **options)
    if cache is not None and Path(cache).exists():
        return fisher.load(cache).value()
    for inputs, targets in batches:
        fisher.update(inputs, targets)
    if not fisher.count:
        raise ValueError("there is no data: a Fisher matrix needs at least one batch")
    if cache is not None:
        fisher.save(cache)
    return fisher.value()


def ssd(
    model: nn.Module,
    forget: Batches | Fisher,
    full_fisher: Fisher,
    alpha: float | Literal["auto"] = 10.0,
    dampening: float = 1.0,
    *,
    quantile: float = 0.95,
    **options: Any,
) -> DampeningReport:
    r"""Dampen, in place, the weights that matter much more to the forget set than to all data.

    With \(F^f\) and \(F\) the diagonal Fisher matrices of the two sets, those with \(F^f_i > \alpha F_i\) are
    multiplied by \(\min(1, \lambda F_i / F^f_i)\).

    If F counts the forget set in, \(F^f_i \le \tfrac{n}{n_f} F_i\), with n samples of which n_f are to be forgotten:
    an α of n / n_f or more selects nothing, whatever the network.

    Args:
        forget: batches (inputs, targets) of the forget set, or its Fisher matrix.
        full_fisher: that of all training data (`total_fisher`).
        alpha: threshold α, or ``"auto"``: the `quantile` of the ratio over all weights that matter at all.
        dampening: λ.
        options: of `FisherAccumulator`, for the forget set.

    Raises:
        ValueError: alpha or dampening not positive, an empty forget set, a Fisher matrix of another architecture or
            with negative or NaN entries, a network in training mode with batch norm or dropout.

    Source: Foster, Schoepf & Brintrup (2023), equations 4 and 5.
    """
    if alpha != "auto" and not alpha > 0:
        raise ValueError(f"alpha={alpha} must be positive, or 'auto'")
    if not dampening > 0 or not 0 < quantile < 1:
        raise ValueError(f"dampening={dampening} must be positive and quantile={quantile} between 0 and 1")
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    _check(full_fisher, parameters, "full_fisher")
    if not isinstance(forget, Mapping):
        forget = total_fisher(model, forget, params=tuple(full_fisher), **options)
    _check(forget, parameters, "the forget set's Fisher matrix")
    if set(forget) != set(full_fisher):
        raise ValueError("the two Fisher matrices are of different parameters")
    if not any(bool(f.any()) for f in forget.values()):
        raise ValueError("the forget set's Fisher matrix is zero: the network has nothing to forget there")
    if alpha == "auto":
        ratios = torch.cat([(forget[n] / f)[f > 0].flatten().double() for n, f in full_fisher.items()])
        place = max(1, min(len(ratios), round(quantile * len(ratios))))
        alpha = float(ratios.kthvalue(place).values)
    report = DampeningReport(alpha=float(alpha))
    with torch.no_grad():
        for name, full in full_fisher.items():
            weight, important = parameters[name], forget[name]
            chosen = important > alpha * full
            factor = (dampening * full / torch.where(chosen, important, 1)).clamp(max=1).where(chosen, 1.0)
            weight.mul_(factor.to(weight))
            report.selected[name] = int(chosen.sum())
            report.sizes[name] = weight.numel()
            report.factor[name] = float(factor[chosen].mean()) if report.selected[name] else 1.0
    if not report.n_selected:
        worst = max(float((forget[n] / f.clamp(min=torch.finfo(f.dtype).tiny)).max()) for n, f in full_fisher.items())
        warnings.warn(
            f"alpha={alpha:g} selects nothing: the largest ratio of the two Fisher matrices is {worst:.3g} (it cannot "
            "pass n / n_forget where the full one counts the forget set in). Lower alpha, or take alpha='auto'",
            NothingSelected,
            stacklevel=2,
        )
    return report


def _check(fisher: Fisher, parameters: Mapping[str, nn.Parameter], what: str) -> None:
    if not fisher:
        raise ValueError(f"{what} is empty")
    for name, values in fisher.items():
        if name not in parameters:
            raise ValueError(f"{what} has {name!r}, which is no trainable parameter of this network")
        if values.shape != parameters[name].shape:
            shapes = f"{tuple(values.shape)} and {tuple(parameters[name].shape)}"
            raise ValueError(f"{name!r} has shapes {shapes} in {what} and in the network: another architecture")
        if not bool((values >= 0).all()):
            raise ValueError(f"{what} is negative or NaN at {name!r}")
