r"""BiLRP: which pairs of features, one of each input, make two inputs similar.

A similarity \(y = \langle\phi(x), \phi(x')\rangle\) is bilinear in its embeddings: relevance is propagated once for
each of their entries and multiplied out, \(R_{ij} = \sum_m R_i^m(x)\, R_j^m(x')\).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gramian.analysis.explain.freeze import check_evaluation, parameters_at_rest
from gramian.analysis.explain.relevance import Composite, Relevance, lrp_mode
from gramian.analysis.taps import Taps

__all__ = ["BiRelevance", "Pool", "bilrp", "bilrp_text", "embedding_relevance", "pool_cells", "random_directions"]

Pool = Callable[[Tensor], Tensor]
"""Relevance (entries, *input) → (entries, places), sums kept."""


class BiRelevance(NamedTuple):
    r"""The joint relevance of two inputs, by its factors.

    `left` and `right` hold the relevance of the places of each input for each entry of the embedding; `similarity` is
    the similarity that they explain.
    """

    left: Float[Tensor, "entries places"]
    right: Float[Tensor, "entries others"]
    similarity: Float[Tensor, ""]

    def matrix(self) -> Float[Tensor, "places others"]:
        r"""\(R_{ij}\), the relevance of place i of one input with place j of the other."""
        return self.left.mT @ self.right

    def top(self, count: int = 1) -> list[tuple[int, int, float]]:
        """The pairs of places of the largest relevance, largest first.

        Raises:
            ValueError: count below 1 or above the number of pairs.
        """
        matrix = self.matrix()
        if not 1 <= count <= matrix.numel():
            raise ValueError(f"count={count}: there are {matrix.numel()} pairs of places")
        values, places = matrix.flatten().topk(count)
        return [(*divmod(int(p), matrix.shape[1]), float(v)) for p, v in zip(places, values)]


def pool_cells(side: int) -> Pool:
    """Sum relevance of pictures over channels and over square cells of `side` pixels, row by row.

    Raises:
        ValueError: a side below 1, or in use, pictures whose sides it does not divide.
    """
    if side < 1:
        raise ValueError(f"side={side} must be at least 1")

    def pool(relevance: Tensor) -> Tensor:
        height, width = relevance.shape[-2:]
        if height % side or width % side:
            raise ValueError(f"cells of {side} pixels do not tile {height} × {width} pixels")
        summed = relevance.flatten(1, -3).sum(1, keepdim=True)
        return F.avg_pool2d(summed, side, divisor_override=1).flatten(1)

    return pool


def bilrp(
    phi: nn.Module,
    x: Float[Tensor, "*shape"],
    other: Float[Tensor, "*other_shape"],
    composite: Composite | None = None,
    *,
    pool: Pool | None = None,
    project: int | None = None,
    at_once: int = 16,
    generator: torch.Generator | None = None,
) -> BiRelevance:
    r"""Joint relevance of two inputs for the similarity of their embeddings.

    Args:
        phi: from one input to its embedding (any shape), in evaluation mode.
        x, other: the two inputs, each with the batch axis that `phi` wants.
        composite: rules by layers' names; without one, units are frozen and linear layers hand back x W. For networks
            of ReLU without biases this is the Hessian of the similarity times both inputs.
        pool: sums relevance over places before it is multiplied out; by default places are entries of the input.
        project: use that many random directions of the embedding instead of its entries: unbiased, cheaper.
        at_once: how many entries are handed back together.
        generator: for `project`.

    Raises:
        ValueError: embeddings of different sizes, `project` below 1, or as `gramian.analysis.explain.relevance`.

    Source: Eberle et al., Building and Interpreting Deep Similarity Models (2020), section 2.2; appendix for the
    random projection.
    """
    with torch.no_grad():
        size, other_size = phi(x).numel(), phi(other).numel()
    if size != other_size:
        raise ValueError(f"embeddings of {size} and {other_size} entries: one size is needed")
    directions = None
    if project is not None:
        if project < 1:
            raise ValueError(f"project={project}: at least one direction is needed")
        directions = random_directions(project, size, generator).to(x.device, x.dtype)
    (left, one), (right, two) = (
        embedding_relevance(phi, given, composite, directions=directions, pool=pool, at_once=at_once)
        for given in (x, other)
    )
    return BiRelevance(left, right, one @ two)


def random_directions(count: int, size: int, generator: torch.Generator | None = None) -> Float[Tensor, "count size"]:
    """Random directions whose inner products are those of the space, on average."""
    return torch.randn(count, size, generator=generator) / count**0.5


def embedding_relevance(
    phi: nn.Module,
    x: Float[Tensor, "*shape"],
    composite: Composite | None = None,
    *,
    directions: Float[Tensor, "entries size"] | None = None,
    pool: Pool | None = None,
    at_once: int = 16,
) -> tuple[Float[Tensor, "entries places"], Float[Tensor, " entries"]]:
    """One side of `bilrp`: relevance of an input for each entry of its embedding, and the entries.

    Where one input is compared with many, its side is worked out once: ``BiRelevance(left, right, one @ two)``.

    Args:
        directions: of the embedding, to use instead of its entries; the same for both sides.
    """
    source = x.detach().clone().requires_grad_()
    with lrp_mode(phi, composite, source) as mode:
        out = phi(source.clone())
    seeds = torch.eye(out.numel(), dtype=out.dtype, device=out.device) if directions is None else directions
    if seeds.shape[1] != out.numel():
        raise ValueError(f"directions of {seeds.shape[1]} entries for an embedding of {out.numel()}")
    return _factor(mode, out, source, seeds, pool, at_once), seeds @ out.detach().flatten()


def _factor(mode: Relevance, out: Tensor, source: Tensor, seeds: Tensor, pool: Pool | None, at_once: int) -> Tensor:
    found = []
    for some in seeds.split(at_once):
        relevance = mode.of(out, source, some.view(len(some), *out.shape))
        found.append(relevance.flatten(1) if pool is None else pool(relevance))
    return torch.cat(found)


def bilrp_text(
    encoder: nn.Module,
    ids: Int[Tensor, " tokens"],
    other: Int[Tensor, " other_tokens"],
    *,
    method: Literal["lrp", "gradient"] = "lrp",
    level: Literal["token", "embedding"] = "token",
    embeddings: str = "embeddings.LayerNorm",
    composite: Composite | None = None,
    at_once: int = 64,
) -> BiRelevance:
    r"""Which tokens of two texts make their embeddings alike; an embedding is the mean of the encoder's last states.

    Attention weights, the divisors of LayerNorm and the gains of GELU are held constant; then relevance is input times
    gradient. The input is the sum of word, position and type embeddings, before their LayerNorm.

    Args:
        encoder: a transformers encoder, in evaluation mode; left as found.
        ids, other: the tokens of one text each, special ones included, none of padding.
        method: ``"gradient"`` holds nothing constant: plain input times gradient.
        level: ``"token"`` sums relevance over the width, ``"embedding"`` keeps (token, width), row by row.
        embeddings: the name of the module whose input is explained.
        composite: rules for linear layers by name.
        at_once: how many entries of the embedding are handed back together.

    Raises:
        ValueError: padding among the tokens, dropout in training mode, a module that is not there.

    Source: Vasileiou and Eberle, Explaining Text Similarity in Transformer Models (2024), section 3.
    """
    padding = getattr(getattr(encoder, "config", None), "pad_token_id", None)
    sides = []
    for given in (ids, other):
        if padding is not None and bool((given == padding).any()):
            raise ValueError("padding among the tokens: one text at a time, without padding")
        sides.append(_of_text(encoder, given, method, level, embeddings, composite, at_once))
    (left, one), (right, two) = sides
    return BiRelevance(left, right, one @ two)


def _of_text(
    encoder: nn.Module, ids: Tensor, method: str, level: str, embeddings: str, composite: Composite | None, at_once: int
) -> tuple[Tensor, Tensor]:
    """Relevance of one text for each entry of its embedding, and the embedding."""
    kept: list[Tensor] = []

    def leaf(value: Tensor) -> Tensor:
        kept.append(value.detach().clone().requires_grad_())
        return kept[0]

    def run() -> Tensor:
        with Taps(encoder, {embeddings: leaf}, side="in", mode="write"):
            out: Any = encoder(ids[None])
        states = out if isinstance(out, Tensor) else out[0]
        return states[0].mean(0)

    if method == "gradient":
        check_evaluation(encoder)
        with torch.enable_grad(), parameters_at_rest(encoder):
            out, mode = run(), Relevance(encoder)
    else:
        with lrp_mode(encoder, composite) as mode:
            out = run()

    def pool(relevance: Tensor) -> Tensor:
        return relevance.sum(-1).flatten(1) if level == "token" else relevance.flatten(1)

    if method == "lrp" and level == "token" and ids.numel() < out.numel() and not mode.read:
        return _by_tokens(out, kept[0], at_once), out.detach()
    seeds = torch.eye(out.numel(), dtype=out.dtype, device=out.device)
    return _factor(mode, out, kept[0], seeds, pool, at_once), out.detach()


def _by_tokens(out: Tensor, source: Tensor, at_once: int) -> Tensor:
    r"""Relevance of each token for each entry of `out`, in one pass a token instead of one an entry.

    The frozen network is a linear map J of its input: what token i sends to entry m, \(\sum_d J_{m,id}\, x_{id}\), is
    entry m of J applied to the input with all other tokens at zero. J is the derivative of \(u \mapsto J^\top u\).
    """
    u = torch.zeros_like(out, requires_grad=True)
    (pulled,) = torch.autograd.grad(out, source, u, create_graph=True)
    alone = torch.diag_embed(source.detach()[0].mT).permute(2, 1, 0)[:, None]  # (tokens, 1, tokens, width)
    sent = [
        torch.autograd.grad(pulled, u, some, retain_graph=True, is_grads_batched=True)[0]
        for some in alone.split(at_once)
    ]
    return torch.cat(sent).mT.detach()
