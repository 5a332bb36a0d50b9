r"""N:M masks: of every M consecutive weights at most N are kept.

Sparse tensor cores run a product with such a weight at a multiple of the dense speed, as long as the groups lie
along the axis that the product sums over. The forward product sums over the inputs, the gradient of the inputs
over the outputs: a mask for one of them is in general none for the other.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["backward_mask", "best_permutation", "expected_retained", "nm_mask", "transposable_mask"]


def check_pattern(kept: int, group: int, length: int | None = None, axis: str = "axis") -> None:
    """Raise ValueError unless 1 ≤ kept ≤ group and `length`, if given, is a multiple of `group`."""
    if not 1 <= kept <= group:
        raise ValueError(f"{kept}:{group} is no pattern: keep between 1 and {group} of every {group}")
    if length is not None and length % group:
        raise ValueError(
            f"the {axis} of {length} weights is not divisible by {group}: pad it with {-length % group} zeros, "
            "take another pattern, or leave this layer dense"
        )


def nm_mask(w: Float[Tensor, "rows columns"], kept: int, group: int, dim: int = 1) -> Bool[Tensor, "rows columns"]:
    """True for the `kept` largest magnitudes of every `group` consecutive entries along `dim`; exactly that many.

    Of equal magnitudes the first are kept.

    Raises:
        ValueError: a pattern with kept < 1 or kept > group, an axis that groups do not divide, dim not 0 or 1, or NaN.

    >>> nm_mask(torch.tensor([[1.0, -3.0, 2.0, 0.5]]), 2, 4)
    tensor([[False,  True,  True, False]])
    """
    if dim not in (0, 1):
        raise ValueError(f"dim={dim} of a matrix is 0 or 1")
    check_pattern(kept, group, w.shape[dim], ("first axis", "second axis")[dim])
    if bool(w.isnan().any()):
        raise ValueError("the weight holds NaN, whose magnitude has no rank")
    lines = w.detach().abs() if dim == 1 else w.detach().abs().mT
    groups = lines.reshape(-1, group)
    order = groups.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :kept], True).view(lines.shape)
    return mask if dim == 1 else mask.mT


def backward_mask(
    masked: Float[Tensor, "rows columns"], kept: int, group: int, permutation: Int64[Tensor, " rows"] | None = None
) -> Bool[Tensor, "rows columns"]:
    """The N:M mask along the rows of a forward-masked weight, in groups of rows as a permutation orders them.

    Args:
        masked: the weight times its forward mask.
        permutation: the order of the rows in which `group` neighbours form a group; None takes the rows as they are.

    Raises:
        ValueError: as `nm_mask`, or something that is not a permutation of the rows.
    """
    if permutation is None:
        return nm_mask(masked, kept, group, 0)
    if not torch.equal(permutation.sort().values, torch.arange(len(masked), device=permutation.device)):
        raise ValueError(f"not a permutation of the {len(masked)} rows")
    mask = torch.empty(masked.shape, dtype=torch.bool, device=masked.device)
    mask[permutation] = nm_mask(masked[permutation], kept, group, 0)
    return mask


def best_permutation(
    w: Float[Tensor, "rows columns"], kept: int, group: int, candidates: int, generator: torch.Generator | None = None
) -> tuple[Int64[Tensor, " rows"], float]:
    """Of random orders of the rows the one in which most forward-kept weights also survive the backward mask.

    How many survive does not depend on magnitudes: a group of rows keeps, in each column, all of its weights that
    the forward mask kept, up to `kept`.

    Args:
        candidates: how many orders are drawn.
        generator: where they come from.

    Returns:
        the permutation, and the share of the forward-kept weights that survive with it.

    Raises:
        ValueError: no candidates, or as `nm_mask`.

    Source: Zhang et al., Bi-directional Masks for Efficient N:M Sparse Training (2023).
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: at least one order must be drawn")
    check_pattern(kept, group, len(w), "axis of outputs")
    forward = nm_mask(w, kept, group, 1)
    counts, best, most = forward.to(torch.float32), torch.arange(len(w), device=w.device), -1
    for _ in range(candidates):
        order = torch.randperm(len(w), generator=generator).to(w.device)
        survive = int(counts[order].view(len(w) // group, group, -1).sum(1).clamp(max=kept).sum())
        if survive > most:
            best, most = order, survive
    return best, most / int(forward.sum())


def expected_retained(kept: int, group: int) -> float:
    r"""The share that survives a random order: \(E[\min(B, N)] / N\) with B binomial, M draws of chance N/M.

    >>> expected_retained(2, 4)
    0.8125
    """
    check_pattern(kept, group)
    chance = kept / group
    return sum(
        math.comb(group, k) * chance**k * (1 - chance) ** (group - k) * min(k, kept) / kept for k in range(group + 1)
    )


def transposable_mask(w: Float[Tensor, "rows columns"], kept: int, group: int) -> Bool[Tensor, "rows columns"]:
    """One mask for both directions: exactly `kept` in every row and column of each block of group × group weights.

    For groups of up to 4 the best of all such patterns (90 for 2:4), by magnitudes kept; for larger ones the
    assignment problem solved `kept` times, each time on what is left.

    Raises:
        ValueError: as `nm_mask`, for either axis.

    Source: Hubara et al., Accelerated Sparse Neural Training: transposable masks (2021).
    """
    check_pattern(kept, group, w.shape[1], "axis of inputs")
    check_pattern(kept, group, w.shape[0], "axis of outputs")
    rows, columns = w.shape
    blocks = w.detach().abs().view(rows // group, group, columns // group, group).transpose(1, 2)
    blocks = blocks.reshape(-1, group, group)
    if bool(blocks.isnan().any()):
        raise ValueError("the weight holds NaN, whose magnitude has no rank")
    chosen = _best_of_all(blocks, kept, group) if group <= 4 else _by_assignments(blocks, kept)
    back = chosen.view(rows // group, columns // group, group, group).transpose(1, 2)
    return back.reshape(rows, columns)


def _best_of_all(blocks: Tensor, kept: int, group: int) -> Tensor:
    lines = [[float(c in chosen) for c in range(group)] for chosen in itertools.combinations(range(group), kept)]
    found = [p for p in itertools.product(lines, repeat=group) if all(sum(c) == kept for c in zip(*p, strict=True))]
    patterns = torch.tensor(found, dtype=blocks.dtype, device=blocks.device)
    return patterns[(blocks.flatten(1) @ patterns.flatten(1).T).argmax(1)].bool()


def _by_assignments(blocks: Tensor, kept: int) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    chosen = torch.zeros(blocks.shape, dtype=torch.bool)
    for block, mask in zip(blocks.cpu().double(), chosen, strict=True):
        never = float(block.sum()) + 1  # a place that is taken costs more than all others together
        for _ in range(kept):
            mask[linear_sum_assignment(torch.where(mask, -never, block).numpy(), maximize=True)] = True
    return chosen.to(blocks.device)
