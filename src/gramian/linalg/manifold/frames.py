"""Frames of unit vectors: simplex, orthoplex, cube, and equiangular vectors found by optimization."""

from __future__ import annotations

import math
import warnings
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "FrameNotConverged",
    "coherence",
    "cube",
    "equiangular_vectors",
    "orthoplex",
    "simplex",
    "welch_bound",
]


class FrameNotConverged(UserWarning):
    """The coherence asked for was not reached."""


def simplex(
    count: int, dim: int | None = None, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "count dim"]:
    """`count` unit vectors with all cosines −1/(count − 1): a regular simplex's vertices, in `dim` ≥ count − 1 axes.

    Raises:
        ValueError: count below 2 or dim below count − 1.

    >>> (simplex(4) @ simplex(4).T)[0]
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """
    least = count - 1
    dim = least if dim is None else dim
    if count < 2 or dim < least:
        raise ValueError(f"a simplex of {count} vertices needs count ≥ 2 and dim ≥ {least}; got dim={dim}")
    # the rows of an orthonormal basis (Helmert's) of the hyperplane orthogonal to (1, …, 1), transposed
    helmert = torch.zeros(count, dim, dtype=torch.float64)
    for k in range(1, count):
        scale = 1 / math.sqrt(k * (k + 1))
        helmert[:k, k - 1] = scale
        helmert[k, k - 1] = -k * scale
    return (helmert * math.sqrt(count / (count - 1))).to(dtype=dtype, device=device)


def orthoplex(
    dim: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "count dim"]:
    """The 2·dim vectors ±eᵢ: the vertices of the cross-polytope."""
    if dim < 1:
        raise ValueError(f"dim={dim} must be at least 1")
    identity = torch.eye(dim, dtype=dtype, device=device)
    return torch.cat((identity, -identity))


def cube(
    dim: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "count dim"]:
    """The 2^dim vectors (±1, …, ±1)/√dim: the vertices of the hypercube.

    Raises:
        ValueError: dim outside 1 … 20.
    """
    if not 1 <= dim <= 20:
        raise ValueError(f"dim={dim}: a cube has 2^dim vertices; 1 to 20 axes are allowed")
    return torch.tensor(list(product((1.0, -1.0), repeat=dim)), dtype=dtype, device=device) / math.sqrt(dim)


def welch_bound(count: int, dim: int) -> float:
    """The least possible coherence: √((N − d)/(d(N − 1))) for N > d unit vectors in d axes, 0 for N ≤ d.

    Reached only by equiangular tight frames, and these need N ≤ d(d + 1)/2 in real space.

    >>> welch_bound(6, 3)
    0.4472135954999579
    """
    if count < 2 or dim < 1:
        raise ValueError(f"count={count} must be at least 2 and dim={dim} at least 1")
    return math.sqrt((count - dim) / (dim * (count - 1))) if count > dim else 0.0


def coherence(vectors: Float[Tensor, "count dim"], block: int = 4096) -> Tensor:
    """Max |cos(wᵢ, wⱼ)| over i ≠ j, by blocks of rows: never more than block × count entries at once."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    largest = unit.new_zeros(())
    for start in range(0, len(unit), block):
        cosines = unit[start : start + block] @ unit.mT
        cosines.diagonal(offset=start).zero_()
        largest = torch.maximum(largest, cosines.abs().amax())
    return largest


def equiangular_vectors(
    count: int,
    dim: int,
    alpha: float | int | None = None,
    *,
    generator: torch.Generator | None = None,
    exact: bool = False,
    restarts: int = 8,
    steps: int = 500,
    block: int = 512,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "count dim"]:
    """`count` unit vectors in `dim` axes whose cosines are at most alpha in absolute value.

    With `alpha`, the excess of |cos| over it is driven to zero, over blocks of rows in turn, so that no
    count × count matrix is held (equiangular basis vectors, 2023, section 3.2). Without, the largest
    |cos| is made as small as can be found: a softened maximum, its sharpness rising, from
    several starts. For count ≤ dim the answer is orthonormal and found directly.

    Args:
        alpha: the coherence asked for; the smallest by default.
        generator: of the random start.
        exact: demand equiangularity: all |cos| equal to the Welch bound, within 1 %.
        restarts, steps: of the search for the smallest; `steps` also limits the passes with `alpha`.
        block: rows a block.
        dtype: of the result; the search runs in float32 at least.

    Raises:
        ValueError: count below 2, dim below 1, alpha outside [0, 1) or below the Welch bound, or exactness
            demanded of more than dim(dim + 1)/2 vectors (no such set exists).

    Warns:
        FrameNotConverged: `alpha`, or exactness, was not reached.
    """
    bound = welch_bound(count, dim)
    if exact and count > dim * (dim + 1) // 2:
        raise ValueError(
            f"no {count} equiangular lines exist in {dim} axes: at most dim(dim+1)/2 = {dim * (dim + 1) // 2}"
        )
    if alpha is not None and not bound <= alpha < 1:
        raise ValueError(
            f"alpha={alpha} cannot be had: {count} unit vectors in {dim} axes have coherence at least {bound:.4f} "
            f"(Welch); give alpha in [{bound:.4f}, 1), or more axes"
        )
    work = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    if count <= dim:
        q, _ = torch.linalg.qr(torch.randn(dim, count, generator=generator, dtype=work))
        return q.mT.contiguous().to(dtype)
    if alpha is not None:
        found = _below(count, dim, float(alpha), generator, steps, block, work)
        target = float(alpha)
    else:
        found = _smallest(count, dim, restarts, generator, steps, work)
        target = 1.01 * bound if exact else 1.0
    reached = float(coherence(found, block))
    if reached > target + 1e-6:
        message = (
            f"coherence {reached:.4f} was reached, not {target:.4f}; more steps, more axes or a larger alpha may help"
        )
        warnings.warn(message, FrameNotConverged, stacklevel=2)
    return found.to(dtype)


def _start(count: int, dim: int, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=dtype), dim=-1)


def _below(
    count: int, dim: int, alpha: float, generator: torch.Generator | None, passes: int, block: int, dtype: torch.dtype
) -> Tensor:
    vectors = _start(count, dim, generator, dtype)
    goal = alpha * (1 - 1e-3)  # a little below, so that rounding does not lift a pair above alpha
    momentum = torch.zeros_like(vectors)
    for _ in range(passes):
        worst = 0.0
        pull = torch.zeros_like(vectors)
        for begin in range(0, count, block):
            # half the gradient of Σ excess²/2 falls on the block's rows, and as the sum is over all ordered
            # pairs, the other half on the same rows: only these need be written
            cosines = vectors[begin : begin + block] @ vectors.mT
            cosines.diagonal(offset=begin).zero_()
            excess = (cosines.abs() - goal).clamp(min=0)
            worst = max(worst, float(excess.amax()))
            pull[begin : begin + block] = (excess * cosines.sign()) @ vectors
        if worst <= alpha - goal:
            break
        momentum = 0.9 * momentum + pull
        vectors = torch.nn.functional.normalize(vectors - 0.3 * momentum, dim=-1)
    return vectors


def _smallest(
    count: int, dim: int, restarts: int, generator: torch.Generator | None, steps: int, dtype: torch.dtype
) -> Tensor:
    """The best of several starts, polished by descent on a softened maximum.

    Half the starts come from alternating projections, which find equiangular sets where there are any, half
    from an excess over a falling limit, which does better where there are none.
    """
    bound = welch_bound(count, dim)
    free = _start(restarts * count, dim, generator, dtype).view(restarts, count, dim)
    diagonal = torch.eye(count, dtype=torch.bool)
    half = (restarts + 1) // 2 if count <= 256 else restarts
    free = torch.cat(
        (_falling(free[:half], bound, 4 * steps, diagonal), _projected(free[half:], bound, steps // 3, diagonal))
    )
    free = free.requires_grad_()
    rate = 0.1 * bound / dim**0.5  # a step is a small part of a coordinate and of the cosines
    adam = torch.optim.Adam([free], lr=rate)
    for step in range(steps):
        share = step / steps
        for group in adam.param_groups:
            group["lr"] = rate * (1 - share) ** 1.5 + 1e-5
        sharpness = 20 * 100**share / bound
        unit = torch.nn.functional.normalize(free, dim=-1)
        cosines = (unit @ unit.mT).abs().masked_fill(diagonal, 0.0)
        loss = torch.logsumexp(sharpness * cosines.flatten(1), dim=1).sum() / sharpness
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = torch.nn.functional.normalize(free.detach(), dim=-1)
    return min(found, key=lambda w: float(coherence(w)))


def _projected(vectors: Tensor, bound: float, rounds: int, diagonal: Tensor) -> Tensor:
    """Cut the Gram matrix to the bound, go back to the nearest tight frame, and again (Tropp et al., 2005)."""
    dim = vectors.shape[-1]
    for _ in range(rounds if len(vectors) else 0):
        gram = (vectors @ vectors.mT).clamp(-bound, bound).masked_fill(diagonal, 1.0)
        vectors = torch.nn.functional.normalize(torch.linalg.eigh(gram).eigenvectors[..., -dim:], dim=-1)
    return vectors


def _falling(vectors: Tensor, bound: float, rounds: int, diagonal: Tensor) -> Tensor:
    """Descend on the squared excess of |cos| over a limit that falls from twice the bound to the bound."""
    momentum = torch.zeros_like(vectors)
    for step in range(rounds):
        limit = bound * (1 + (1 - step / rounds) ** 2)
        cosines = (vectors @ vectors.mT).masked_fill(diagonal, 0.0)
        momentum = 0.9 * momentum + ((cosines.abs() - limit).clamp(min=0) * cosines.sign()) @ vectors
        vectors = torch.nn.functional.normalize(vectors - 0.3 * momentum, dim=-1)
    return vectors
