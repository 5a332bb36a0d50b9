r"""LQ-LoRA: a weight as NormalFloat blocks plus two factors, and the bits of every matrix under one budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.linalg.factor import lowrank
from gramian.linalg.factor.quant import normal_float
from gramian.linalg.factor.quant.normal_float import BlockFormat
from gramian.nn.quantized.packed import QuantizedLinear
from gramian.surgery import allocate
from gramian.surgery.swap import Handle, find, swap

__all__ = ["Decomposition", "choose_formats", "error_table", "lq_decompose", "to_lq"]


@dataclass(frozen=True)
class Decomposition:
    r"""\(W \approx Q + U D\).

    Attributes:
        quantized: Q, dequantized: quantizing it again in the same format gives the same codes' values.
        residual: W − U D, what Q is the quantization of.
        up, down: the factors.
        error: the (weighted) error \(\|\sqrt F \odot (W - Q - U D)\|_F\).
        errors: of every iteration, the first one worse than its predecessor included.
    """

    quantized: Tensor
    residual: Tensor
    up: Tensor
    down: Tensor
    error: float
    errors: tuple[float, ...]


def lq_decompose(
    weight: Float[Tensor, "outputs inputs"],
    rank: int,
    fmt: BlockFormat,
    fisher: Float[Tensor, "rows columns"] | None = None,
    *,
    max_iterations: int = 100,
    randomized: bool = True,
    generator: torch.Generator | None = None,
) -> Decomposition:
    r"""Alternate low rank and quantization until the error rises; the best pair is returned.

    From Q = 0: \(U D = \mathrm{SVD}_r(W - Q)\), \(Q = \mathrm{quantize}(W - U D)\). With a Fisher diagonal F the
    decomposition is weighted by \(D_{row} = \sqrt{\mathrm{mean}_j F_{ij}}\) and \(D_{col}\) likewise, as if F were
    their product, and the error is \(\|\sqrt F \odot (W - Q - U D)\|_F\).

    Args:
        rank: of the factors.
        fmt: of Q.
        fisher: in the weight's shape; at least 0. Rows or columns of zeros get 1e-4 of the largest importance.
        max_iterations: at most so many alternations.
        randomized: low rank by random projections (oversampled by 10), as in the paper; False is exact.
        generator: for the projections.

    Raises:
        ValueError: a rank outside [1, min(shape)], blocks that do not divide the weight, a Fisher of another shape,
            negative or of zeros, NaN or infinity.

    Source: Guo et al., LQ-LoRA (2023), algorithms 1 and 2.
    """
    if max_iterations < 1:
        raise ValueError(f"max_iterations={max_iterations} must be at least 1")
    fmt.check(weight.numel())
    work = weight.detach().float()
    row, column, root = _importance(work, fisher)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    quantized, best, errors = torch.zeros_like(work), None, []
    for _ in range(max_iterations):
        factors = lowrank.weighted_svd(work - quantized, row, column, rank, randomized=randomized, generator=generator)
        residual = work - factors.product()
        quantized = normal_float.round_blocks(residual, fmt)
        difference = residual - quantized
        errors.append(float(torch.linalg.matrix_norm(difference if root is None else root * difference)))
        if best is not None and errors[-1] >= best.error:
            break
        best = Decomposition(quantized, residual, factors.left, factors.right, errors[-1], ())
    assert best is not None
    return Decomposition(best.quantized, best.residual, best.up, best.down, best.error, tuple(errors))


def _importance(weight: Tensor, fisher: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if fisher is None:
        return None, None, None
    if fisher.shape != weight.shape:
        raise ValueError(f"the Fisher matrix has shape {tuple(fisher.shape)}, the weight {tuple(weight.shape)}")
    if not bool(torch.isfinite(fisher).all()) or bool((fisher < 0).any()) or not bool((fisher > 0).any()):
        raise ValueError("a diagonal of the Fisher matrix is finite, at least 0 and not all zeros")
    importance = []
    for dim in (1, 0):
        weights = fisher.detach().double().mean(dim).sqrt()
        importance.append(weights.clamp(min=1e-4 * float(weights.max())).to(weight))
    return importance[0], importance[1], fisher.detach().sqrt().to(weight)


def error_table(
    weights: Sequence[Float[Tensor, "_ _"]],
    formats: Sequence[BlockFormat],
    rank: int = 0,
    fishers: Sequence[Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[np.ndarray, "matrices formats"], Float[np.ndarray, "matrices formats"]]:
    """Squared errors and bits of every matrix in every format: the tables that `choose_formats` allocates.

    Args:
        rank: of the factors beside Q; 0 quantizes alone.
        fishers: weights of the errors, one a matrix.

    Raises:
        ValueError: no matrices or formats, or as `lq_decompose`.
    """
    if not weights or not formats:
        raise ValueError(f"{len(weights)} matrices and {len(formats)} formats: at least one of each")
    cost = np.zeros((len(weights), len(formats)))
    bits = np.zeros_like(cost)
    for i, weight in enumerate(weights):
        fisher = None if fishers is None else fishers[i]
        for j, fmt in enumerate(formats):
            if rank:
                cost[i, j] = lq_decompose(weight, rank, fmt, fisher, generator=generator).error ** 2
            else:
                _, _, root = _importance(weight.float(), fisher)
                difference = weight - normal_float.round_blocks(weight, fmt)
                cost[i, j] = float((difference if root is None else root * difference).square().sum())
            bits[i, j] = fmt.bits_per_number * weight.numel()
    return cost, bits


def choose_formats(
    weights: Sequence[Float[Tensor, "_ _"]],
    formats: Sequence[BlockFormat],
    bits: float,
    rank: int = 0,
    fishers: Sequence[Tensor] | None = None,
    solver: str = "milp",
    generator: torch.Generator | None = None,
) -> tuple[list[BlockFormat], allocate.Allocation]:
    """The format of each matrix that together err least within a mean of `bits` a number.

    Raises:
        ValueError: a budget that no formats meet (the message says the smallest that can be met), or as `error_table`.

    Source: Guo et al., LQ-LoRA (2023), section 3.2.
    """
    cost, size = error_table(weights, formats, rank, fishers, generator)
    numbers = sum(w.numel() for w in weights)
    try:
        found = allocate.allocate(cost, size, bits * numbers, solver)
    except ValueError as error:
        least = size.min(axis=1).sum() / numbers
        if bits < least:
            raise ValueError(f"bits={bits} a number cannot be met: the smallest that can is {least:.6g}") from error
        raise
    return [formats[c] for c in found.choice], found


def to_lq(
    model: nn.Module,
    formats: BlockFormat | Mapping[str, BlockFormat],
    rank: int,
    layers: str | Iterable[str] = "*",
    fisher: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Handle:
    """Replace linear layers by `QuantizedLinear`, in place: Q frozen and packed, the factors trainable.

    Args:
        formats: of all layers, or by layer name (layers that it lacks stay).
        rank: of the factors; 0 quantizes alone.
        fisher: diagonals by parameter name.

    Raises:
        ValueError: no layer matches, a Fisher that lacks a layer, or as `lq_decompose`.
    """

    def replace(name: str, layer: nn.Module) -> nn.Module | None:
        fmt = formats.get(name) if isinstance(formats, Mapping) else formats
        if fmt is None:
            return None
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if fisher is not None and f"{name}.weight" not in fisher:
            raise ValueError(f"the Fisher matrix lacks {name}.weight")
        try:
            if not rank:
                return QuantizedLinear.from_float(weight.float(), fmt, bias)
            found = lq_decompose(weight, rank, fmt, None if fisher is None else fisher[f"{name}.weight"],
                                 generator=generator)  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return QuantizedLinear.from_float(found.residual, fmt, bias, found.up, found.down)

    if isinstance(formats, Mapping):
        find(model, list(formats), nn.Linear)
    return swap(model, layers, replace, nn.Linear)
