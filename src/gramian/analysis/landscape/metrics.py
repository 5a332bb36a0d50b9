"""The loss landscape of a group of networks that differ in their seeds alone, in five numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gramian.analysis.landscape import bezier, similarity
from gramian.linalg.spectral import lanczos
from gramian.optim.curvature import Hessian

__all__ = ["METRICS", "landscape_metrics"]

METRICS = ("train_loss", "hessian_top", "hessian_trace", "connectivity", "similarity")
PAIRED = ("connectivity", "similarity")


def landscape_metrics(
    models: Sequence[nn.Module],
    loss: Callable[..., Tensor],
    batch: Sequence[Tensor],
    *,
    names: Sequence[str] = METRICS,
    measure: Callable[..., Tensor] | None = None,
    products: int = 30,
    steps: int = 100,
    lr: float = 1e-2,
    points: int = 9,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """Means over networks, or over their pairs.

    ``train_loss``; ``hessian_top`` and ``hessian_trace``, the Hessian's largest eigenvalue and its trace (Lanczos and
    Hutch++); ``connectivity``, of the Bézier curve between two networks; ``similarity``, linear CKA of their outputs
    (a network whose outputs are the same for every sample is like no other: 0).

    Args:
        models: networks of one architecture.
        loss: (module, *batch) → a mean loss.
        batch: the data, inputs first.
        names: which of `METRICS`.
        measure: what connectivity is measured by, such as the share of errors; by default the loss.
        products: with the Hessian, for either of its numbers.
        steps, lr, points: of the curve: its descent, and where it is measured.

    Raises:
        ValueError: a name that is unknown, no network, or fewer than two where pairs are compared.
    """
    unknown = [n for n in names if n not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {', '.join(unknown)}; there are {', '.join(METRICS)}")
    paired = [n for n in names if n in PAIRED]
    if not models or (paired and len(models) < 2):
        what = f"{' and '.join(paired)} compare networks of several seeds" if paired else "there is nothing to measure"
        raise ValueError(f"{len(models)} networks: {what}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    lists: dict[str, list[float]] = {n: [] for n in names}
    for model in models:
        if not {"train_loss", "hessian_top", "hessian_trace"} & set(names):
            break
        hessian = Hessian(model, loss, batch)
        settings = {"generator": generator, "dtype": hessian.point.dtype, "device": hessian.point.device}
        if "train_loss" in names:
            lists["train_loss"].append(hessian.loss)
        if "hessian_top" in names:
            found = lanczos.lanczos(hessian, hessian.size, products, **settings)
            lists["hessian_top"].append(float(found.ritz()[0][-1]))
        if "hessian_trace" in names:
            lists["hessian_trace"].append(lanczos.hutch_plus_plus(hessian, hessian.size, products, **settings).value)
    for a, b in itertools.combinations(models, 2):
        if "connectivity" in names:
            curve = bezier.bezier_connect(
                a, b, loss, tuple(batch), steps=steps, lr=lr, batch_size=len(batch[0]), generator=generator
            )
            lists["connectivity"].append(bezier.mode_connectivity(curve.along(measure or loss, batch, points)))
        if "similarity" in names:
            with torch.no_grad():
                outputs = [m(batch[0]).flatten(1) for m in (a, b)]
            alive = all(bool((o != o[0]).any()) for o in outputs)
            lists["similarity"].append(float(similarity.linear_cka(outputs[0], outputs[1])) if alive else 0.0)
    return {name: sum(values) / len(values) for name, values in lists.items()}
