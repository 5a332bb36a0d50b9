r"""Linear layers as two factors of low rank: by plain and by Fisher-weighted singular value decomposition (FWSVD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor import lowrank
from gramian.linalg.factor.lowrank import Factors
from gramian.nn.low_rank import LowRankLinear
from gramian.surgery import allocate
from gramian.surgery.swap import Handle, find, swap

__all__ = ["FactorReport", "factorize", "fwsvd", "importance", "spread_ranks"]


@dataclass(frozen=True)
class FactorReport:
    """What was factorized.

    Attributes:
        handle: of the swap: ``undo()`` restores the model, ``merge()`` makes dense layers of the products.
        ranks: the rank of each factorized layer.
        before, after: parameters of the matched layers' weights before and after.
    """

    handle: Handle
    ranks: dict[str, int]
    before: int
    after: int

    @property
    def kept(self) -> float:
        """The share of the weights' parameters that is left."""
        return self.after / self.before


def importance(
    fisher: Float[Tensor, "outputs inputs"], floor: float | int = 1e-4
) -> tuple[Float[Tensor, " outputs"], Float[Tensor, " inputs"]]:
    r"""Weights of a matrix's rows and columns: \(\sqrt{\sum_j F_{ij}}\) and \(\sqrt{\sum_i F_{ij}}\).

    Args:
        fisher: the diagonal of the Fisher matrix, in the weight's shape.
        floor: least weight as a share of the largest; a weight of 0 would leave its row undetermined.

    Raises:
        ValueError: a negative or non-finite Fisher, one of zeros, or a floor outside [0, 1] (0 only where no row or
            column is without importance).

    Source: Hsu et al., Language model compression with weighted low-rank factorization (2022), equation 5.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} is a share of the largest importance, between 0 and 1")
    if not bool(torch.isfinite(fisher).all()) or bool((fisher < 0).any()):
        raise ValueError("a diagonal of the Fisher matrix is finite and at least 0")
    found = []
    for dim, what in ((1, "output"), (0, "input")):
        weights = fisher.double().sum(dim).sqrt()
        if not bool(weights.max() > 0):
            raise ValueError("the Fisher matrix is zero: no gradient reached this layer")
        if floor == 0 and bool((weights == 0).any()):
            raise ValueError(f"{int((weights == 0).sum())} {what} rows have no importance: give a floor above 0")
        found.append(weights.clamp(min=floor * float(weights.max())).to(fisher.dtype))
    return found[0], found[1]


def factorize(
    model: nn.Module,
    layers: str | Iterable[str] = "*",
    *,
    ranks: int | Mapping[str, int] | None = None,
    kept_ranks: float | None = None,
    fisher: Mapping[str, Tensor] | None = None,
    side: str = "in",
    floor: float | int = 1e-4,
) -> FactorReport:
    r"""Replace linear layers by `LowRankLinear`, in place: the best factors, plain or weighted by a Fisher matrix.

    Args:
        layers: patterns of the layers' names. With `ranks` a mapping, layers that it lacks stay dense.
        ranks: of every layer, or by layer.
        kept_ranks: instead, the share of each layer's full rank.
        fisher: diagonals of the Fisher matrix by parameter name (``"encoder.0.weight"``), of the weights' shapes;
            None is the plain SVD.
        side: which entries share an importance: ``"in"``, those of one input (the paper's rows: its weights are inputs
            × outputs); ``"out"``, those of one output; ``"two"``, both, as if the Fisher were a product.
        floor: as of `importance`.

    Raises:
        ValueError: not exactly one of ranks and kept_ranks, a rank outside a layer's, no layer that matches, a Fisher
            that lacks a layer or has another shape, an unknown side.
        TypeError: a convolution among the named layers (reshape it to a linear layer first).
    """
    if (ranks is None) == (kept_ranks is None):
        raise ValueError("give exactly one of ranks= and kept_ranks=")
    if kept_ranks is not None and not 0 < kept_ranks <= 1:
        raise ValueError(f"kept_ranks={kept_ranks} is a share of the full rank, in (0, 1]")
    if side not in ("in", "out", "two"):
        raise ValueError(f"side={side!r} is not 'in', 'out' or 'two'")
    if isinstance(ranks, Mapping):
        unknown = set(ranks) - set(find(model, layers, nn.Linear))
        if unknown:
            raise ValueError(f"ranks name layers that are not there: {', '.join(sorted(unknown)[:4])}")
    chosen: dict[str, int] = {}
    sizes = {"before": 0, "after": 0}

    def replace(name: str, layer: nn.Module) -> nn.Module | None:
        weight = layer.weight.detach()
        full = min(weight.shape)
        rank = ranks.get(name) if isinstance(ranks, Mapping) else ranks
        if kept_ranks is not None:
            rank = max(1, round(kept_ranks * full))
        sizes["before"] += weight.numel()
        if rank is None:
            sizes["after"] += weight.numel()
            return None
        try:
            factors = _factors(weight, rank, _fisher_of(name, weight, fisher), side, floor)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        chosen[name] = rank
        sizes["after"] += rank * sum(weight.shape)
        return LowRankLinear.from_factors(factors.left, factors.right, layer.bias)

    _no_convolutions(model, layers)
    handle = swap(model, layers, replace, nn.Linear)
    return FactorReport(handle, chosen, **sizes)


def fwsvd(
    model: nn.Module,
    fisher: Mapping[str, Tensor],
    layers: str | Iterable[str] = "*",
    *,
    ranks: int | Mapping[str, int] | None = None,
    kept_ranks: float | None = None,
    side: str = "in",
    floor: float | int = 1e-4,
) -> FactorReport:
    r"""Factorize linear layers by the Fisher-weighted SVD.

    \[ \min_{A, B} \| I (W - A B) \|_F, \qquad I = \mathrm{diag}(\sqrt{\textstyle\sum_j F_{ij}}), \]

    solved by \(I W = U S V^T\), \(A = I^{-1} U_r S_r\), \(B = V_r^T\) (i over inputs): what the loss is sensitive to
    is kept best. See `factorize` for arguments and errors.

    Source: Hsu et al., Language model compression with weighted low-rank factorization (2022), section 4.
    """
    return factorize(model, layers, ranks=ranks, kept_ranks=kept_ranks, fisher=fisher, side=side, floor=floor)


def spread_ranks(
    model: nn.Module,
    share: float,
    layers: str | Iterable[str] = "*",
    *,
    fisher: Mapping[str, Tensor] | None = None,
    side: str = "in",
    floor: float | int = 1e-4,
    solver: str = "greedy",
) -> dict[str, int]:
    r"""Ranks for `factorize` under one budget: the layers' weights keep `share` of their parameters in all.

    The (weighted) squared error of all layers together is least among factorizations of that size; a layer that would
    not become smaller stays dense and is left out.

    Args:
        share: of the matched layers' weight parameters, in (0, 1).
        solver: of `gramian.surgery.allocate.allocate`.

    Raises:
        ValueError: a share outside (0, 1) or too small for rank one everywhere (the message says the smallest).
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} of the parameters is not between 0 and 1")
    found, spectra, units = {}, [], []
    for name, layer in find(model, layers, nn.Linear).items():
        if id(layer) in {id(other) for other in found.values()}:
            continue  # one layer under two names
        found[name] = layer
        weight = layer.weight.detach().float()
        row, column = _weights(_fisher_of(name, weight, fisher), side, floor)
        scaled = weight if row is None else weight * row[:, None]
        scaled = scaled if column is None else scaled * column
        spectra.append(torch.linalg.svdvals(scaled))
        units.append(sum(weight.shape))
    cost, weight, allowed = allocate.energy_curves(spectra, units)
    dense = [layer.weight.numel() for layer in found.values()]
    for row_index, (count, unit) in enumerate(zip(dense, units, strict=True)):
        full = len(spectra[row_index])
        allowed[row_index, 0] = False
        allowed[row_index, (count - 1) // unit + 1 : full] = False  # larger than dense
        weight[row_index, full], allowed[row_index, full] = count, True  # the last column: dense
    budget = share * sum(dense)
    choice = allocate.allocate(cost, weight, budget, solver, allowed=allowed).choice
    return {n: r for n, r, s in zip(found, choice, spectra, strict=True) if r < len(s)}


def _no_convolutions(model: nn.Module, layers: str | Iterable[str]) -> None:
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    for pattern in patterns:
        if pattern == "*" or pattern.endswith("*"):
            continue  # a broad pattern means its linear layers
        for name, module in find(model, pattern).items():
            if isinstance(module, kinds):
                raise TypeError(f"{name} is a convolution: its kernel has no one matrix; reshape it to a linear layer")


def _fisher_of(name: str, weight: Tensor, fisher: Mapping[str, Tensor] | None) -> Tensor | None:
    if fisher is None:
        return None
    key = f"{name}.weight" if f"{name}.weight" in fisher else name
    if key not in fisher:
        raise ValueError(f"the Fisher matrix lacks {name}.weight; it has {', '.join(list(fisher)[:4])}, …")
    if fisher[key].shape != weight.shape:
        raise ValueError(f"the Fisher matrix has shape {tuple(fisher[key].shape)}, the weight {tuple(weight.shape)}")
    return fisher[key].to(weight)


def _weights(fisher: Tensor | None, side: str, floor: float | int) -> tuple[Tensor | None, Tensor | None]:
    if fisher is None:
        return None, None
    row, column = importance(fisher, floor)
    return (None if side == "in" else row), (None if side == "out" else column)


def _factors(weight: Tensor, rank: int, fisher: Tensor | None, side: str, floor: float | int) -> Factors:
    row, column = _weights(fisher, side, floor)
    if row is None and column is None:
        return lowrank.truncated_svd(weight, rank)
    return lowrank.weighted_svd(weight, row, column, rank)
