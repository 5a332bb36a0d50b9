"""Coordinate check: how weights, updates and features grow with the width, as slopes of measured powers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gramian.optim.fit import fit
from gramian.optim.parametrization.shapes import Weight, weights

__all__ = ["Coordinates", "coordinate_check", "log_slope", "spectral_norm"]

Make = Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer]]
"""(width, seed) → a model of that width and its optimizer."""

QUANTITIES = ("weight", "update", "feature", "change")


def log_slope(sizes: Sequence[float | int], values: Sequence[float | int]) -> float:
    """The least-squares slope of log value by log size: the power by which `values` grow.

    Raises:
        ValueError: fewer than two sizes, lists of different lengths, or a number that is not positive.

    >>> round(log_slope((1, 2, 4), (3, 12, 48)), 6)
    2.0
    """
    if len(sizes) != len(values) or len(set(sizes)) < 2:
        raise ValueError(f"{len(sizes)} sizes and {len(values)} values: give at least two, and as many of each")
    if min(*sizes, *values) <= 0 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"a power needs positive finite numbers, got {[float(v) for v in values]}")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def spectral_norm(matrix: Float[Tensor, "rows columns"]) -> float:
    """The largest singular value, by Lanczos where the matrix is large."""
    array = matrix.detach().double().cpu().numpy()
    rows, columns = array.shape
    if min(rows, columns) <= 64:
        gram = array @ array.T if rows <= columns else array.T @ array
        return math.sqrt(max(0.0, float(np.linalg.eigvalsh(gram)[-1])))
    from scipy.sparse.linalg import svds

    if not np.abs(array).max() > 0:
        return 0.0
    start = np.random.default_rng(0).standard_normal(min(rows, columns))
    return float(svds(array, k=1, v0=start, tol=1e-3, return_singular_vectors=False)[0])


@dataclass(frozen=True)
class Coordinates:
    r"""What a coordinate check measured; every list has one value per width, the geometric mean over the seeds.

    Attributes:
        widths: of the models.
        weight: \(\|W\|_2 / \sqrt{\text{fan-out}/\text{fan-in}}\) at the start, by the weight's name.
        update: the same of \(W_\text{end} - W_\text{start}\).
        feature: root mean square of the layer's output at the start, by the same name.
        change: root mean square of that output's change over the training.
    """

    widths: tuple[int, ...]
    weight: dict[str, tuple[float, ...]] = field(default_factory=dict)
    update: dict[str, tuple[float, ...]] = field(default_factory=dict)
    feature: dict[str, tuple[float, ...]] = field(default_factory=dict)
    change: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def slopes(self, quantity: str) -> dict[str, float]:
        """The power of the width by which a quantity grows, by the weight's name.

        Raises:
            ValueError: an unknown quantity, or one that was zero.
        """
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity={quantity!r} is unknown; choose one of {', '.join(QUANTITIES)}")
        return {name: log_slope(self.widths, values) for name, values in getattr(self, quantity).items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer, with the slopes of all quantities."""
        found = {quantity: self.slopes(quantity) for quantity in QUANTITIES}
        return [{"layer": name, **{q: found[q][name] for q in QUANTITIES}} for name in self.weight]


def coordinate_check(
    make: Make,
    widths: Sequence[int],
    batch: Sequence[Tensor],
    loss: Callable[..., Any],
    *,
    steps: int = 3,
    seeds: Sequence[int] = (0,),
) -> Coordinates:
    """Train models of several widths for a few steps on one batch, and measure what moved.

    A parametrization passes if features and their change neither vanish nor explode with the width.

    Args:
        make: (width, seed) → (model, optimizer); the models must have the same parameters, by name.
        widths: at least two.
        batch: (inputs, …), all samples in every step.
        loss: (module, *batch) → a scalar.
        steps: of the optimizer.
        seeds: over which the measures are averaged, geometrically.

    Raises:
        ValueError: fewer than two widths, no seed, or no step.

    Source: Yang et al., "Tensor Programs V" (2022), appendix D (coordinate checking).
    """
    if len(set(widths)) < 2 or not seeds or steps < 1:
        raise ValueError(f"widths={tuple(widths)}, seeds={tuple(seeds)}, steps={steps}: two widths, a seed, a step")
    logs: dict[str, dict[str, list[float]]] = {q: defaultdict(list) for q in QUANTITIES}
    for width in widths:
        found = [_one(*make(width, seed), batch, loss, steps) for seed in seeds]
        for quantity in QUANTITIES:
            for name in found[0][quantity]:
                mean = math.exp(sum(math.log(max(f[quantity][name], 1e-300)) for f in found) / len(found))
                logs[quantity][name].append(mean)
    plain = {q: {name: tuple(values) for name, values in logs[q].items()} for q in QUANTITIES}
    return Coordinates(tuple(widths), **plain)


def _one(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], loss: Callable[..., Any], steps: int
) -> dict[str, dict[str, float]]:
    matrices = [w for w in weights(model) if w.parameter.ndim > 1]
    first, outputs = _matrices(matrices), _outputs(model, matrices, batch[0])
    fit(
        model, list(batch), loss, steps=steps, batch_size=len(batch[0]), optimizer=lambda _: optimizer,
        show_progress=False,
    )  # fmt: skip
    last, moved = _matrices(matrices), _outputs(model, matrices, batch[0])
    scale = {w.name: math.sqrt(w.fan_out / w.fan_in) for w in matrices}
    return {
        "weight": {name: spectral_norm(first[name]) / scale[name] for name in first},
        "update": {name: spectral_norm(last[name] - first[name]) / scale[name] for name in first},
        "feature": {name: _rms(outputs[name]) for name in first},
        "change": {name: _rms(moved[name] - outputs[name]) for name in first},
    }


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _matrices(found: list[Weight]) -> dict[str, Tensor]:
    """The weights in use, multipliers included, as matrices (fan-out, fan-in)."""
    with torch.no_grad():
        used = [(w, getattr(w.owner, w.attribute).detach().clone()) for w in found]
    sideways = (nn.Embedding, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {w.name: (t.transpose(0, 1) if isinstance(w.owner, sideways) else t).reshape(w.fan_out, -1) for w, t in used}


def _outputs(model: nn.Module, found: list[Weight], inputs: Tensor) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}
    handles = [
        w.owner.register_forward_hook(lambda module, args, y, name=w.name: kept.__setitem__(name, y.detach().clone()))
        for w in found
    ]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return kept
