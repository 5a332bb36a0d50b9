"""Feature-aligned N-BEATS: features of several domains are drawn together, stack by stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.signal import transport
from gramian.models.series.nbeats import NBeats
from gramian.optim.fit import fit as fit_module
from gramian.optim.memory import History

__all__ = ["NORMALIZERS", "REDUCTIONS", "alignment_loss", "fit", "smape", "stack_divergences"]

NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: F.softmax(x, -1),
    "tanh": torch.tanh,
    "none": lambda x: x,
}
REDUCTIONS = ("max", "sum")


def smape(
    forecast: Float[Tensor, "batch horizon channels"], future: Float[Tensor, "batch horizon channels"]
) -> Float[Tensor, ""]:
    r"""Mean of \(2 |\hat y - y| / (|\hat y| + |y|)\), between 0 and 2; 0 where both are 0.

    >>> smape(torch.ones(1, 1, 1), torch.full((1, 1, 1), 3.0))
    tensor(1.)
    """
    size = (forecast.abs() + future.abs()) / 2
    return ((forecast - future).abs() / torch.where(size > 0, size, 1)).mean()


def _check(eps: float, normalizer: str) -> None:
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps={eps} must be positive and finite")
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer={normalizer!r} is unknown; choose one of {', '.join(NORMALIZERS)}")


def stack_divergences(
    features: Float[Tensor, "stacks domains samples width"],
    eps: float = 2.5e-3,
    normalizer: str = "softmax",
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> Float[Tensor, "stacks pairs"]:
    r"""Sinkhorn divergence between the features of every two domains, in every stack.

    Args:
        features: of as many samples of each domain; every sample weighs the same.
        eps: of the entropic cost, with ½|x − y|² between normalized features.
        normalizer: ``softmax`` over the width, ``tanh`` or ``none``: without one, features can come together by
            shrinking.
        iterations, tolerance: as in `gramian.linalg.signal.transport`.

    Raises:
        ValueError: fewer than two domains, eps that is not positive, an unknown normalizer.

    Source: Lee et al. (2023), definition 3.2.
    """
    _check(eps, normalizer)
    if features.shape[1] < 2:
        raise ValueError(f"alignment needs at least two domains, got {features.shape[1]}")
    clouds = NORMALIZERS[normalizer](features)
    first, second = map(list, zip(*combinations(range(features.shape[1]), 2), strict=True))
    settings = (eps, iterations, tolerance)
    own = transport.transport_cost(clouds, clouds, *settings)  # once for each domain, not for each pair
    across = transport.transport_cost(clouds[:, first], clouds[:, second], *settings)
    return across - 0.5 * (own[:, first] + own[:, second])


def alignment_loss(
    model: NBeats, past: Float[Tensor, "domains samples look_back"], reduction: str = "max", **settings: Any
) -> Float[Tensor, ""]:
    """Sum over stacks of the largest divergence of two domains (or of all of them); moves feature extractors only.

    Args:
        past: windows of each domain.
        reduction: ``max`` or ``sum`` over the pairs of domains.
        settings: as in `stack_divergences`.

    Raises:
        ValueError: an unknown reduction, and as in `stack_divergences`.

    Source: Lee et al. (2023), equation 3.6; the released code's division of the gradients.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r} is unknown; choose one of {', '.join(REDUCTIONS)}")
    features = model.decompose(past.flatten(0, 1), extractor_only=True).features
    found = stack_divergences(features.unflatten(1, past.shape[:2]), **settings)
    return (found.amax(1) if reduction == "max" else found.sum(1)).sum()


def fit(
    model: NBeats,
    domains: Sequence[tuple[Float[Tensor, "_ look_back"], Float[Tensor, "_ horizon"]]],
    *,
    weight: float = 1.0,
    batch_size: int = 32,
    loss: Callable[[Tensor, Tensor], Tensor] = smape,
    reduction: str = "max",
    eps: float = 2.5e-3,
    normalizer: str = "softmax",
    **settings: Any,
) -> History:
    """Train on windows of several domains: the mean forecasting loss, and `weight` times `alignment_loss`.

    Args:
        domains: windows and what follows them, one pair of tensors for each domain; of as many windows as there are.
        weight: λ; with 0 this is plain N-BEATS on the same batches.
        batch_size: windows of every domain in a batch.
        settings: ``steps=``, ``lr=``, ``generator=`` and the rest of `gramian.optim.fit.fit`.

    Raises:
        ValueError: no domain, one domain with a weight above 0, a negative weight, domains that do not fit the model.
    """
    _check(eps, normalizer)
    if weight < 0:
        raise ValueError(f"weight={weight} must not be negative")
    if len(domains) < (2 if weight else 1):
        raise ValueError(f"{len(domains)} domain(s): alignment needs at least two; give weight=0 to train without it")
    for index, (past, future) in enumerate(domains):
        if past.shape[1] != model.look_back or future.shape[1] != model.horizon or len(past) != len(future):
            raise ValueError(
                f"domain {index} has windows {tuple(past.shape)} and {tuple(future.shape)}; the model reads "
                f"{model.look_back} steps and forecasts {model.horizon}"
            )

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = [torch.randint(len(past), (batch_size,), generator=generator) for past, _ in domains]
        pairs = [(past[i], future[i]) for (past, future), i in zip(domains, chosen, strict=True)]
        return torch.stack([p for p, _ in pairs]), torch.stack([f for _, f in pairs])

    def measure(module: nn.Module, past: Tensor, future: Tensor) -> Any:
        plain = loss(module(past.flatten(0, 1)[..., None]), future.flatten(0, 1)[..., None])
        if not weight:
            return plain
        apart = alignment_loss(model, past, reduction, eps=eps, normalizer=normalizer)
        return plain + weight * apart, {"forecast": plain.detach(), "alignment": apart.detach()}

    settings.setdefault("show_progress", False)
    return fit_module(model, draw, measure, **settings)
