r"""Maximal update and spectral parametrizations: start, multiplier and learning rate of every parameter.

Both say the same in two ways. Maximal update compares a model with its base width and leaves the base as it is;
the spectral rule needs no base: every weight and every update should have a spectral norm of the order of
\(\sqrt{\text{fan-out}/\text{fan-in}}\), so that a change of size 1 in a layer's input entries makes a change of size 1
in its outputs, at every width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gramian.optim.parametrization.shapes import Weight, weights

__all__ = ["Multiplier", "Parametrization", "Rule", "apply_rules", "mup", "spectral"]

KINDS = ("standard", "mup", "spectral")
OPTIMIZERS = ("sgd", "adam")


class Multiplier(nn.Module):
    """A weight that is `factor` times what is stored and trained.

    Raises:
        ValueError: a factor that is not positive and finite.
    """

    def __init__(self, factor: float | int) -> None:
        super().__init__()
        if not 0 < factor < math.inf:
            raise ValueError(f"factor={factor} must be positive and finite")
        self.factor = float(factor)

    def forward(self, stored: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.factor * stored

    def right_inverse(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What is stored for a weight that is assigned."""
        return weight / self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


@dataclass(frozen=True)
class Rule:
    """What a parametrization asks of one parameter.

    Attributes:
        weight: the parameter and its role.
        multiplier: the weight in use over the weight that is stored.
        std: standard deviation of the stored weight at the start; 0 for zeros, None to leave it as it is.
        lr: factor on the learning rate.
    """

    weight: Weight
    multiplier: float
    std: float | None
    lr: float


def _start(weight: Weight, sigma: float) -> float | None:
    """σ/√fan-in for matrices; biases zero; the gains and shifts of norms, and what has no rule, as they are."""
    if weight.role == "free":
        return None
    if weight.parameter.ndim > 1:
        return sigma / math.sqrt(weight.fan_in)
    plain = weight.attribute == "bias" and isinstance(weight.owner, (nn.Linear, nn.modules.conv._ConvNd))
    return 0.0 if plain else None


def _standard(weight: Weight, optimizer: str, sigma: float) -> Rule:
    return Rule(weight, 1.0, _start(weight, sigma), 1.0)


def _mup(weight: Weight, optimizer: str, sigma: float) -> Rule:
    std, multiplier = _start(weight, sigma), 1.0
    if weight.role == "output":
        multiplier = 1 / weight.grown_in
        std = None if std is None else std * math.sqrt(weight.grown_in)
    if optimizer == "sgd":
        lr = {"output": weight.grown_in, "hidden": weight.grown_out / weight.grown_in}.get(
            weight.role, weight.grown_out
        )
    else:
        lr = 1 / weight.grown_in if weight.role == "hidden" else 1.0
    return Rule(weight, multiplier, std, lr)


def _spectral(weight: Weight, optimizer: str, sigma: float) -> Rule:
    if weight.role == "free":
        return Rule(weight, 1.0, None, 1.0)
    ratio = weight.fan_out / weight.fan_in
    std = _start(weight, sigma)
    if std:
        std *= min(1.0, math.sqrt(ratio))
    return Rule(weight, 1.0, std, ratio if optimizer == "sgd" else 1 / weight.fan_in)


_RULES = {"standard": _standard, "mup": _mup, "spectral": _spectral}


def apply_rules(
    rules: list[Rule],
    *,
    lr: float | int,
    weight_decay: float | int = 0.0,
    initialize: bool = True,
    generator: torch.Generator | None = None,
) -> list[dict[str, Any]]:
    """Attach the multipliers, draw the start, and give the optimizer's groups.

    Applied twice it does the same as once: multipliers are set, not multiplied. A group's product of learning rate
    and weight decay is that of the arguments, so that decay acts equally fast everywhere; parameters of fewer than
    two axes are not decayed.

    Raises:
        ValueError: a learning rate that is not positive, a negative decay, or no parameter to train.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr={lr} must be positive and finite")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay={weight_decay} must be at least 0 and finite")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    done: set[int] = set()
    for rule in rules:
        weight = rule.weight
        _multiply(weight, rule.multiplier)
        parameter = weight.parameter
        if id(parameter) in done:  # the second place of a shared parameter: the first decides its start and its rate
            continue
        done.add(id(parameter))
        if initialize and rule.std is not None:
            with torch.no_grad():
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.copy_(drawn.to(parameter) * rule.std)
        if parameter.requires_grad:
            decay = weight_decay / rule.lr if parameter.ndim > 1 else 0.0
            groups.setdefault((lr * rule.lr, decay), []).append(parameter)
    if not groups:
        raise ValueError("the model has no parameter that needs a gradient")
    return [{"params": held, "lr": rate, "weight_decay": decay} for (rate, decay), held in groups.items()]


def _multiply(weight: Weight, factor: float) -> None:
    owner, attribute = weight.owner, weight.attribute
    held = getattr(owner, "parametrizations", {})
    mine = [m for m in held[attribute] if isinstance(m, Multiplier)] if attribute in held else []
    if mine:
        mine[0].factor = factor
    elif factor != 1:
        if attribute in held:
            raise ValueError(f"{weight.name} already has a parametrization of another kind: apply this one first")
        stored = weight.parameter.detach().clone()
        parametrize.register_parametrization(owner, attribute, Multiplier(factor))
        with torch.no_grad():  # what is stored stays; it is the weight in use that the multiplier changes
            weight.parameter.copy_(stored)


@dataclass(frozen=True)
class Parametrization:
    r"""A rule by which a model's start and learning rates follow its width.

    ===========  ===================  =================  =====================  ==================
    kind         weight               multiplier         standard deviation     lr: sgd · adam
    ===========  ===================  =================  =====================  ==================
    standard     all                  1                  σ/√fan-in              1 · 1
    mup          input, vectors       1                  σ/√fan-in              grown-out · 1
    mup          hidden               1                  σ/√fan-in              out/in · 1/grown-in
    mup          output               1/grown-in         σ/√(base fan-in)       grown-in · 1
    spectral     all                  1                  σ/√fan-in · min(1, r)  r² · 1/fan-in
    ===========  ===================  =================  =====================  ==================

    where r = √(fan-out/fan-in), and *grown* is a side over the base model's. Biases start at zero, gains and shifts of
    norms are left as they are. An attention's 1/√(head size) belongs to its module; maximal update wants 1/head size.

    Args:
        kind: ``standard``, ``mup`` or ``spectral``.
        base: for ``mup``: base shapes (`shapes.base_shapes`) or the model at its base width.
        optimizer: ``sgd`` or ``adam`` (and its like: what divides a gradient by its own size, entry by entry).
        sigma: scale of the start; about 1, or √2 for ReLU.
        delta, tied, free: as in `shapes.weights`.

    Raises:
        ValueError: an unknown kind or optimizer, σ that is not positive, or ``mup`` without base shapes.

    Source: Yang and Hu, "Feature Learning in Infinite-Width Neural Networks" (2020); Yang et al., "Tensor Programs V"
    (2022), table 8; Yang, Simon and Bernstein, "A Spectral Condition for Feature Learning" (2023), section 3.

    >>> wide = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    >>> narrow = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> wide, groups = Parametrization("mup", narrow, optimizer="sgd").apply(wide, lr=0.1)
    >>> wide[2].parametrizations.weight[0], [g["lr"] for g in groups]
    (Multiplier(factor=0.25), [0.4, 0.1])
    """

    kind: str
    base: Mapping[str, tuple[int, ...]] | nn.Module | None = None
    optimizer: str = "sgd"
    sigma: float | int = 1.0
    delta: Mapping[str, tuple[int, ...]] | nn.Module | None = None
    tied: Collection[str] = ()
    free: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={self.optimizer!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma} must be positive and finite")
        if self.kind == "mup" and self.base is None:
            raise ValueError("maximal update compares with a base width: give base=, a narrow model or its shapes")

    def rules(self, model: nn.Module) -> list[Rule]:
        """The rule of every parameter, in the order of the modules."""
        found = weights(model, self.base, delta=self.delta, tied=self.tied, free=self.free)
        return [_RULES[self.kind](weight, self.optimizer, float(self.sigma)) for weight in found]

    def apply(
        self,
        model: nn.Module,
        *,
        lr: float | int,
        weight_decay: float | int = 0.0,
        initialize: bool = True,
        generator: torch.Generator | None = None,
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The model, changed in place, and the groups for its optimizer.

        Args:
            model: the network.
            lr: the learning rate that the rules scale; under ``mup`` that of the base model.
            weight_decay: as at rate `lr`.
            initialize: whether to draw the weights anew; False for a model that has been trained this way before.
            generator: source of the start.

        Raises:
            ValueError: a model that the rules cannot read (`shapes.weights`), or a rate that is not positive.
        """
        settings = {"weight_decay": weight_decay, "initialize": initialize, "generator": generator}
        return model, apply_rules(self.rules(model), lr=lr, **settings)


def mup(
    model: nn.Module,
    base: Mapping[str, tuple[int, ...]] | nn.Module,
    *,
    lr: float | int,
    optimizer: str = "adam",
    sigma: float | int = 1.0,
    generator: torch.Generator | None = None,
    **more: Any,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """The model in maximal update parametrization, and its optimizer's groups; see `Parametrization`."""
    marks = {name: more.pop(name) for name in ("delta", "tied", "free") if name in more}
    rule = Parametrization("mup", base, optimizer, sigma, **marks)
    return rule.apply(model, lr=lr, generator=generator, **more)


def spectral(
    model: nn.Module,
    *,
    lr: float | int,
    optimizer: str = "sgd",
    sigma: float | int = 1.0,
    generator: torch.Generator | None = None,
    **more: Any,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    """The model under the spectral condition, and its optimizer's groups; see `Parametrization`."""
    marks = {name: more.pop(name) for name in ("tied", "free") if name in more}
    rule = Parametrization("spectral", None, optimizer, sigma, **marks)
    return rule.apply(model, lr=lr, generator=generator, **more)
