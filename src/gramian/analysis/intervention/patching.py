"""Subspace patching: give one run of a network what another run holds in a few directions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.analysis.taps import Taps

__all__ = ["ablate", "activation_at", "patch", "patch_subspace"]

Positions = slice | int | None
Side = Literal["out", "in"]


def patch(
    base: Float[Tensor, "*batch width"],
    source: Float[Tensor, "*batch width"],
    directions: Float[Tensor, "_ rank"],
) -> Float[Tensor, "*batch width"]:
    r"""The part of `source` in V's span, the rest of `base`: \(h + V V^\top (h' - h)\).

    Args:
        directions: V, orthonormal columns; none (rank 0) changes nothing.

    Raises:
        ValueError: columns that are not orthonormal, or another width.

    Source: Makelov et al., Is This the Subspace You Are Looking for? (2023), section 2.
    """
    _orthonormal(directions, base.shape[-1])
    return base + ((source - base) @ directions) @ directions.T


def _orthonormal(directions: Tensor, width: int) -> None:
    if directions.shape[0] != width:
        raise ValueError(f"directions of {directions.shape[0]} numbers do not fit activations of {width}")
    gram = directions.detach().double().T @ directions.detach().double()
    if not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device), atol=1e-4):
        raise ValueError("the directions are not orthonormal columns; take torch.linalg.qr(directions).Q")


def activation_at(
    model: nn.Module, name: str, inputs: Any, positions: Positions = None, *, side: Side = "out"
) -> Tensor:
    """What the module `name` returns on `inputs` (or takes, ``side="in"``): at the chosen places of the second axis.

    Raises:
        ValueError: no module of that name, or one that did not run.
    """
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with torch.no_grad(), Taps(model, {name: look}, mode="write", side=side):
        model(inputs)
    if not seen:
        raise ValueError(f"{name!r} did not run on these inputs")
    return _at(seen[-1], positions).detach()


def _at(x: Tensor, positions: Positions) -> Tensor:
    return x if positions is None else x[:, positions]


def patch_subspace(
    model: nn.Module,
    name: str,
    directions: Float[Tensor, "width rank"],
    base: Any,
    source: Any,
    positions: Positions = None,
    *,
    side: Side = "out",
) -> Any:
    """The model's output on `base`, with the directions of module `name`'s output taken from its run on `source`.

    Gradients flow to `directions` and to the parameters downstream; the run on `source` carries none.

    Args:
        base, source: inputs of the model, of one shape.
        positions: along the second axis (tokens) where to patch; everywhere without it.
        side: patch what the module returns, or what it takes.

    Raises:
        ValueError: inputs of different shapes, directions that are not orthonormal or do not fit.

    Source: Makelov et al. (2023), section 2.
    """
    if isinstance(base, Tensor) and isinstance(source, Tensor) and base.shape != source.shape:
        raise ValueError(
            f"base is {tuple(base.shape)} and source {tuple(source.shape)}: patching needs inputs of equal length"
        )
    given = activation_at(model, name, source, positions, side=side)

    def edit(x: Tensor) -> Tensor:
        if positions is None:
            return patch(x, given, directions)
        changed = x.clone()
        changed[:, positions] = patch(x[:, positions], given, directions)
        return changed

    with Taps(model, {name: edit}, mode="write", side=side):
        return model(base)


def ablate(
    model: nn.Module,
    name: str,
    directions: Float[Tensor, "width rank"],
    inputs: Any,
    *,
    mean: Float[Tensor, " width"] | None = None,
    positions: Positions = None,
    side: Side = "out",
) -> Any:
    """The model's output on `inputs` with module `name`'s output held at `mean` (zero without it) along directions.

    Raises:
        ValueError: directions that are not orthonormal or do not fit.
    """

    def edit(x: Tensor) -> Tensor:
        held = torch.zeros_like(x) if mean is None else mean.to(x).expand_as(x)
        if positions is None:
            return patch(x, held, directions)
        changed = x.clone()
        changed[:, positions] = patch(x[:, positions], held[:, positions], directions)
        return changed

    with Taps(model, {name: edit}, mode="write", side=side):
        return model(inputs)
