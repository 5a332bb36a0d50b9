"""Which part of a direction does the work when it is patched: the part that carries the feature, or a dormant one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.intervention.patching import activation_at, patch_subspace
from gramian.optim.fit import fit

__all__ = ["IllusionReport", "das", "illusion_report", "split_direction"]

Loss = Callable[[Any], Tensor]


def split_direction(
    direction: Float[Tensor, " width"], downstream: Float[Tensor, "out _"], tolerance: float = 1e-6
) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
    r"""A direction as v = v_null + v_row: what the map `downstream` cannot see, and what it reads.

    Args:
        downstream: W, the linear map \(h \mapsto W h\) that follows.
        tolerance: singular values below this share of the largest count as zero.

    Raises:
        ValueError: another width, or a direction of length zero.

    Source: Makelov et al. (2023), section 3.

    >>> null, row = split_direction(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 2.0]]))
    >>> null.tolist(), row.tolist()
    ([3.0, 0.0], [0.0, 4.0])
    """
    if downstream.shape[1] != len(direction):
        raise ValueError(f"a direction of {len(direction)} numbers does not fit a map of {tuple(downstream.shape)}")
    if not float(direction.norm()) > 0:
        raise ValueError("the direction has length zero")
    _, sizes, axes = torch.linalg.svd(downstream.detach().double(), full_matrices=False)
    read = axes[sizes > tolerance * sizes.max().clamp(min=1e-300)]
    row = ((direction.double() @ read.T) @ read).to(direction)
    return direction - row, row


@dataclass(frozen=True)
class IllusionReport:
    """What patching a direction does, and what it does once the part that nobody reads is taken off.

    Attributes:
        effect: of patching the direction: the share of the way from the base's outcome to the source's.
        row_effect: of patching its readable part alone.
        null_effect: of patching its unread part alone, near zero by construction.
        row_difference: how much the readable part differs between base and source, per unit of it, over how much
            the direction does: small where that part is dormant.
        null_share: the squared length of the unread part, of a unit direction.
        illusory: the patch works (`effect` over a half) and loses over half of that without the unread part.
    """

    effect: float
    row_effect: float
    null_effect: float
    row_difference: float
    null_share: float
    illusory: bool


def illusion_report(
    model: nn.Module,
    name: str,
    direction: Float[Tensor, " width"],
    downstream: Float[Tensor, "out _"],
    base: Any,
    source: Any,
    outcome: Loss,
    positions: slice | int | None = None,
    *,
    side: Literal["out", "in"] = "out",
) -> IllusionReport:
    r"""Patch a direction and its two parts, and compare.

    With f the mean outcome, the effect of a patch is \((f_\text{patched} - f_\text{base}) /
    (f_\text{source} - f_\text{base})\): 1 where the patch does what running on the source would.

    Args:
        model, name, base, source, positions, side: as `patch_subspace`.
        direction: to be tested; it is scaled to length one.
        downstream: the linear map that reads module `name`'s output.
        outcome: the model's output → a number a sample, such as a difference of logits.

    Raises:
        ValueError: base and source whose outcomes are the same, or what patching raises.

    Source: Makelov et al. (2023), sections 3 and 4.
    """
    direction = direction / direction.norm()
    null, row = split_direction(direction, downstream)
    with torch.no_grad():
        start, end = outcome(model(base)), outcome(model(source))
        way = float((end - start).abs().mean())
        if not way > 1e-9 * (1 + float(start.abs().mean())):
            raise ValueError("base and source have the same outcome: there is no effect to measure")

        def effect(part: Tensor) -> float:
            length = part.norm()
            if float(length) < 1e-6:
                return 0.0
            out = outcome(patch_subspace(model, name, (part / length)[:, None], base, source, positions, side=side))
            return float(((out - start) * (end - start)).sum() / (end - start).square().sum())

        effects = [effect(part) for part in (direction, row, null)]
    change = activation_at(model, name, source, positions, side=side)
    change = change - activation_at(model, name, base, positions, side=side)
    whole = float((change @ direction.to(change)).abs().mean())
    length = float(row.norm())
    seen = float((change @ (row / max(length, 1e-12)).to(change)).abs().mean()) / max(whole, 1e-12)
    illusory = effects[0] > 0.5 and effects[1] < 0.5 * effects[0]
    return IllusionReport(*effects, seen, float(null.square().sum()), illusory)


class _Directions(nn.Module):
    """Columns that are kept orthonormal by a QR decomposition."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.free = nn.Parameter(start)

    def forward(self) -> Tensor:
        q, r = torch.linalg.qr(self.free)
        return q * r.diagonal().sign()


def das(
    model: nn.Module,
    name: str,
    base: Tensor,
    source: Tensor,
    loss: Loss,
    *,
    width: int,
    rank: int = 1,
    steps: int = 200,
    lr: float = 0.05,
    positions: slice | int | None = None,
    side: Literal["out", "in"] = "out",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "width rank"]:
    """Distributed alignment search: the directions whose patch from `source` makes the loss smallest.

    Gradient descent on orthonormal columns; the network's own parameters stay, and need no gradient.

    Args:
        base, source: paired inputs, (samples, …).
        loss: the model's output on the patched bases → a scalar to minimize, such as minus the difference of two
            logits. It sees all pairs at once.
        width: of the activation.
        positions, side: where to patch, as `patch_subspace`.
        generator: draws where the search starts.

    Raises:
        ValueError: inputs of different shapes, or a rank outside 1 … width.

    Source: Geiger et al., Finding Alignments Between Interpretable Causal Variables (2023); Makelov et al. (2023).
    """
    if not 1 <= rank <= width:
        raise ValueError(f"rank={rank} must lie in 1 … width={width}")
    like = next(model.parameters(), base)
    start = torch.randn(width, rank, generator=generator).to(
        like.device, like.dtype if like.is_floating_point() else None
    )
    columns = _Directions(start)
    needs = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in needs:
            p.requires_grad_(False)

        def step(run: nn.Module, _: Tensor) -> Tensor:
            return loss(patch_subspace(model, name, run(), base, source, positions, side=side))

        fit(columns, (torch.zeros(1, 1),), step, steps=steps, lr=lr, batch_size=1, show_progress=False)
    finally:
        for p, flag in needs:
            p.requires_grad_(flag)
    return columns().detach()
