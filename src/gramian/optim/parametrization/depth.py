r"""Depth-μP: multipliers and learning rates of residual blocks that keep their meaning as blocks are added."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.nn.residual import ResidualBlock
from gramian.optim.fit import fit
from gramian.optim.parametrization.coordinates import log_slope
from gramian.optim.parametrization.rules import Parametrization, apply_rules

__all__ = ["DeepBlock", "depth_check", "depth_mup", "depth_powers", "diversity_exponent", "stream"]


class DeepBlock(UserWarning):
    """A block's branch has several layers: no choice of powers is optimal for it."""


def depth_powers(alpha: float | int = 0.5, optimizer: str = "adam") -> tuple[float, float]:
    r"""(power of the multiplier, power of the blocks' learning rate) in the number of blocks L.

    The multiplier is \(L^{-\alpha}\). L blocks that each change by \(L^{-\alpha}\) times a step of
    \(\eta L^{-\gamma}\) move the output by a constant if \(\alpha + \gamma = 1\) where the optimizer divides a
    gradient by its own size, and, because the gradient itself carries \(L^{-\alpha}\), if \(2\alpha + \gamma = 1\)
    under SGD.

    Raises:
        ValueError: an unknown optimizer.

    >>> depth_powers(), depth_powers(optimizer="sgd"), depth_powers(1, "adam")
    ((-0.5, -0.5), (-0.5, -0.0), (-1.0, -0.0))
    """
    if optimizer not in ("sgd", "adam"):
        raise ValueError(f"optimizer={optimizer!r} is unknown; choose one of sgd, adam")
    return -float(alpha), -float(1 - alpha if optimizer == "adam" else 1 - 2 * alpha)


def _blocks(model: nn.Module, name: str) -> list[ResidualBlock]:
    try:
        holder = model.get_submodule(name)
    except AttributeError:
        known = ", ".join(n for n, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential)) and n)
        raise ValueError(f"the model has no submodule {name!r}; it has {known or 'no list of blocks'}") from None
    found = list(holder.children())
    if not found or not all(isinstance(b, ResidualBlock) for b in found):
        kinds = sorted({type(b).__name__ for b in found}) or ["nothing"]
        raise ValueError(f"{name} must hold one ResidualBlock or more and nothing else; it holds {', '.join(kinds)}")
    return found


def depth_mup(
    model: nn.Module,
    base: Mapping[str, tuple[int, ...]] | nn.Module | None = None,
    *,
    base_depth: int,
    lr: float | int,
    blocks: str = "blocks",
    optimizer: str = "adam",
    alpha: float | int = 0.5,
    multiplier: float | int = 1.0,
    sigma: float | int = 1.0,
    weight_decay: float | int = 0.0,
    initialize: bool = True,
    generator: torch.Generator | None = None,
    **marks: Any,
) -> tuple[nn.Module, list[dict[str, Any]]]:
    r"""A residual network whose blocks follow their number L, and the groups for its optimizer.

    Every block's multiplier becomes ``multiplier`` · (L/base_depth)^−α, and the learning rate of what is inside the
    blocks is multiplied by (L/base_depth)^−γ (`depth_powers`). α = 1/2 is Depth-μP, in which features are learned and
    neighbouring blocks still differ; α = 1 tends to an ordinary differential equation, whose neighbouring blocks do the
    same; α < 1/2 explodes. Widths follow maximal update if `base` is given.

    Args:
        model: a network whose submodule `blocks` is a list of ``ResidualBlock``.
        base: shapes at the base width, of a network of the same depth; None leaves widths out.
        base_depth: the number of blocks for which `lr` and `multiplier` are meant.
        lr, weight_decay, sigma, initialize, generator: as in `Parametrization.apply`.
        optimizer: ``adam`` (and its like) or ``sgd``.
        alpha: power of the multiplier, at least 0.
        marks: ``delta``, ``tied``, ``free`` for the widths.

    Raises:
        ValueError: no residual blocks, a depth below 1, α negative, or what `Parametrization` rejects.

    Warns:
        DeepBlock: a block with more than one matrix.

    Source: Yang, Yu, Zhu and Hayou, "Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks" (2023),
    table 1.

    >>> net = nn.Sequential()
    >>> net.blocks = nn.Sequential(*(ResidualBlock(nn.Linear(8, 8, bias=False)) for _ in range(16)))
    >>> net, groups = depth_mup(net, base_depth=4, lr=0.1)
    >>> net.blocks[0].multiplier, groups[0]["lr"]
    (0.5, 0.05)
    """
    powers = depth_powers(alpha, optimizer)
    if base_depth < 1:
        raise ValueError(f"base_depth={base_depth} must be at least 1")
    if not 0 <= alpha < math.inf or not 0 < multiplier < math.inf:
        raise ValueError(f"alpha={alpha} must be at least 0 and multiplier={multiplier} positive, both finite")
    found = _blocks(model, blocks)
    deep = [b for b in found if sum(p.ndim > 1 for p in b.parameters()) > 1]
    if deep:
        warnings.warn(
            "a block with several matrices has no optimal powers of the depth: learning rates may not transfer",
            DeepBlock,
            stacklevel=2,
        )
    growth = len(found) / base_depth
    rule = Parametrization("standard" if base is None else "mup", base, optimizer, sigma, **marks)
    inside = {id(p) for block in found for p in block.parameters()}
    rules = [
        replace(r, lr=r.lr * growth ** powers[1]) if id(r.weight.parameter) in inside else r for r in rule.rules(model)
    ]
    groups = apply_rules(rules, lr=lr, weight_decay=weight_decay, initialize=initialize, generator=generator)
    for block in found:
        block.multiplier = float(multiplier) * growth ** powers[0]
    return model, groups


def stream(model: nn.Module, inputs: Tensor, blocks: str = "blocks") -> Float[Tensor, "states batch features"]:
    """What flows between the blocks: the first one's input and every block's output; without gradient."""
    kept: list[Tensor] = []
    found = _blocks(model, blocks)
    handles = [found[0].register_forward_pre_hook(lambda module, args: kept.append(args[0].detach()))]
    handles += [b.register_forward_hook(lambda module, args, y: kept.append(y.detach())) for b in found]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return torch.stack(kept)


def diversity_exponent(states: Float[Tensor, "states batch features"]) -> float:
    r"""κ in \(\|x_{(t+\varepsilon)L} - x_{tL}\| \sim \varepsilon^\kappa\): how unlike neighbouring blocks' work is.

    1/2 if every block adds something of its own, like steps of a random walk; 1 if neighbours add the same. Fitted
    over lags of 1, 2, 4, … up to a quarter of the depth, root mean squares over places, samples and features.

    Raises:
        ValueError: fewer than 8 blocks, or states that do not move.
    """
    depth = len(states) - 1
    if depth < 8:
        raise ValueError(f"{depth} blocks are too few to tell a power: give at least 8")
    lags = [2**k for k in range(int(math.log2(depth / 4)) + 1)]
    moved = [float((states[lag:] - states[:-lag]).double().square().mean().sqrt()) for lag in lags]
    return log_slope(lags, moved)


def depth_check(
    make: Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer]],
    depths: Sequence[int],
    batch: Sequence[Tensor],
    loss: Callable[..., Any],
    *,
    steps: int = 5,
    seeds: Sequence[int] = (0,),
    blocks: str = "blocks",
) -> list[dict[str, float]]:
    """Train networks of several depths for a few steps: size of the last block's output, and of its change.

    Args:
        make: (depth, seed) → (model, optimizer).
        depths: at least one.
        batch, loss, steps, seeds: as in `coordinates.coordinate_check`.

    Returns:
        For every depth: ``depth``, ``feature`` (root mean square at the start) and ``change`` (of its difference after
        the training), averaged over the seeds.

    Raises:
        ValueError: no depth, no seed, or no step.
    """
    if not depths or not seeds or steps < 1:
        raise ValueError(f"depths={tuple(depths)}, seeds={tuple(seeds)}, steps={steps}: at least one of each")
    rows = []
    for depth in depths:
        feature = change = 0.0
        for seed in seeds:
            model, optimizer = make(depth, seed)
            before = stream(model, batch[0], blocks)[-1].double()
            fit(
                model, list(batch), loss, steps=steps, batch_size=len(batch[0]),
                optimizer=lambda _, optimizer=optimizer: optimizer, show_progress=False,
            )  # fmt: skip
            after = stream(model, batch[0], blocks)[-1].double()
            feature += float(before.square().mean().sqrt()) / len(seeds)
            change += float((after - before).square().mean().sqrt()) / len(seeds)
        rows.append({"depth": depth, "feature": feature, "change": change})
    return rows
