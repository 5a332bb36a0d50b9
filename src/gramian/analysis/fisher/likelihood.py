"""What a network's outputs say about the targets: losses of single samples, and targets drawn from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LIKELIHOODS = ("categorical", "gaussian")
SOURCES = ("empirical", "true", "mc")
IGNORED = -100
"""A target of this value is left out, as in `torch.nn.functional.cross_entropy`."""

Loss = Callable[[Any, Any], Tensor]
"""(outputs, targets) → the loss of each sample, (batch,)."""


def negative_log_likelihood(outputs: Float[Tensor, "batch ..."], targets: Any, likelihood: str) -> Tensor:
    r"""\(-\log p(y_n \mid x_n)\) of every sample, summed over the sample's positions.

    Args:
        outputs: ``"categorical"``: logits (batch, …, classes) with targets (batch, …), those equal to -100 left
            out. ``"gaussian"``: means (batch, …) of unit variance, with targets of the same shape.

    Raises:
        ValueError: the shapes do not fit together.
    """
    outputs = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
    if likelihood == "gaussian":
        if outputs.shape != targets.shape:
            raise ValueError(f"the outputs have shape {tuple(outputs.shape)}, the targets {tuple(targets.shape)}")
        return 0.5 * (outputs - targets).square().flatten(1).sum(1)
    if outputs.ndim < 2 or outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits are (batch, …, classes) and their targets (batch, …); got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}. Give forward= to turn the model's output into logits, or loss= for another loss"
        )
    losses = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view(len(outputs), -1).sum(1)


def passes(
    outputs: Any, targets: Any, source: str, likelihood: str | Loss, draws: int, generator: torch.Generator | None
) -> Iterator[tuple[Any, Tensor | None]]:
    """The pairs (targets, weights of the samples) whose weighted squared gradients make up the Fisher matrix.

    ``"empirical"``: the given targets. ``"mc"``: targets drawn from the model. ``"true"``: every class with its
    probability (or every output of a Gaussian model, whose weights are one).
    """
    if source == "empirical":
        yield targets, None
        return
    detached = outputs.detach().to(torch.promote_types(outputs.dtype, torch.float32))
    if source == "mc":
        for _ in range(draws):
            if likelihood == "gaussian":
                noise = torch.randn(detached.shape, generator=generator, dtype=detached.dtype)
                drawn = detached + noise.to(detached.device)
            else:
                flat = detached.softmax(-1).flatten(0, -2).cpu()
                drawn = torch.multinomial(flat, 1, generator=generator).view(detached.shape[:-1]).to(detached.device)
                if targets is not None:
                    drawn = drawn.masked_fill(targets == IGNORED, IGNORED)
            yield drawn, detached.new_full((len(detached),), 1 / draws)
        return
    if detached.ndim != 2:
        raise ValueError(
            f"source='true' sums over the classes of one output a sample, (batch, classes); these outputs have shape "
            f"{tuple(detached.shape)}. Take source='mc', which draws a target at every position"
        )
    if likelihood == "gaussian":
        for i in range(detached.shape[1]):
            # a residual of one in a single output: the gradient of the loss is that output's (negative) gradient
            one = torch.zeros_like(detached)
            one[:, i] = 1
            yield detached + one, None
        return
    probabilities = detached.softmax(-1)
    for k in range(detached.shape[1]):
        yield torch.full((len(detached),), k, device=detached.device), probabilities[:, k]
