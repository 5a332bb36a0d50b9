"""Collapse in regression harms: intrinsic dimensions of features and targets tell the two regimes (2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gramian import optim
from gramian.analysis.geometry import dimension, regression_collapse
from gramian.lab import Card, Run
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Geometric Properties of Neural Multivariate Regression",
    row=126,
    arxiv="2510.01105",
    year=2025,
    kind="method",
    idea="Compare the intrinsic dimension of the last layer's features with that of the targets. Features with fewer "
    "dimensions than the targets are over-compressed: there collapse has thrown away what is to be predicted. With "
    "more, whether fewer would help depends on how much data there is and how noisy it is.",
    claim="Collapsed regression models have ID_H < ID_Y and generalize badly; the others have ID_H > ID_Y, and gain "
    "from fewer dimensions where data are few and noisy.",
    keywords=("neural regression collapse", "TwoNN", "NRC1", "weight decay", "over-compressed", "under-compressed"),
    api=(
        "gramian.analysis.geometry.dimension.intrinsic_dimension",
        "gramian.analysis.geometry.regression_collapse.nrc1",
        "gramian.analysis.geometry.regression_collapse.regression_regime",
    ),
    use="regime = regression_regime(features, targets)\nregime.name, regime.features, regime.targets",
    reach="imitation learning on MuJoCo and CARLA needs its recordings and GPUs; a drawn teacher stands in",
    differs=(
        "Features enter NRC1 with unit length, as in the work that defined it; the nearest neighbours come from exact "
        "differences, since those from products fail for points that nearly coincide.",
    ),
)

DECAYS = (0.0, 1e-3, 5e-3, 2e-2, 5e-2)


def dimensions_are_right(run: Run) -> None:
    """Cubes of known dimension in twenty axes, and a curve, by three estimators."""
    generator, rows = run.generator(), []
    for dim, tolerance in ((2, 0.2), (5, 0.7), (10, 2.4)):
        axes = torch.linalg.qr(torch.randn(20, dim, generator=generator, dtype=torch.float64)).Q
        x = torch.rand(2000, dim, generator=generator, dtype=torch.float64) @ axes.T
        found = {m: dimension.intrinsic_dimension(x, m) for m in ("twonn", "mle", "lpca")}
        rows.append({"dimension": dim, **found})
        # boundaries make every estimate by neighbours too small, the more the more axes there are
        run.check(f"cube of dimension {dim}, 2,000 points: TwoNN", found["twonn"], between=(dim - tolerance, dim + 0.3))
        run.check(f"… by {'principal components of patches' if dim < 6 else 'maximum likelihood'}",
                  found["lpca" if dim < 6 else "mle"], between=(dim - tolerance - 0.2, dim + 0.3))  # fmt: skip
    run.table("cubes", rows, "Estimates from 2,000 points in 20 axes.")
    moved = dimension.intrinsic_dimension(
        7 * x @ torch.linalg.qr(torch.randn(20, 20, generator=generator).double()).Q + 1
    )
    run.check("TwoNN after rotation, shift and scale (change)", abs(moved - rows[-1]["twonn"]), below=1e-6)
    way = torch.rand(500, 1, generator=generator) * torch.ones(1, 6) + 100
    run.check("a line far from the origin, in single precision", dimension.intrinsic_dimension(way), between=(0.8, 1.2))


def twonn_agrees(run: Run) -> None:
    """TwoNN against a fit of its own, by scikit-learn's neighbours and numpy's least squares."""
    from sklearn.neighbors import NearestNeighbors

    x = torch.randn(400, 6, generator=run.generator(1), dtype=torch.float64) ** 3
    near = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(x.numpy()).kneighbors(x.numpy())[0]
    ratios = np.log(np.sort(near[:, 2] / near[:, 1]))[:360]
    slope = np.linalg.lstsq(ratios[:, None], -np.log(1 - np.arange(1, 361) / 400), rcond=None)[0][0]
    gap = abs(dimension.intrinsic_dimension(x) / float(slope) - 1)
    run.check("TwoNN against a fit by scikit-learn and numpy (relative error)", gap, below=1e-8)


def collapse_is_measured(run: Run) -> None:
    """NRC1 of features in a plane, of noise, and moved."""
    generator = run.generator(2)
    kind = {"generator": generator, "dtype": torch.float64}
    turn = torch.linalg.qr(torch.randn(16, 16, **kind)).Q
    plane = torch.randn(300, 3, **kind) @ turn[:3]
    run.check("NRC1 of features in a three-dimensional plane", float(regression_collapse.nrc1(plane + 2, 3)),
              between=(-1e-12, 1e-10))  # fmt: skip
    noise = torch.randn(20_000, 16, **kind)
    left = float(regression_collapse.nrc1(noise, 3))
    run.check("NRC1 of round noise in 16 axes, against 13/16 (error)", abs(left - 13 / 16), below=0.02)
    x = plane + 0.2 * noise[:300]
    one, other = (float(regression_collapse.nrc1(v, 3)) for v in (x, 5 * x @ turn - 3))
    run.check("NRC1 after rotation, shift and scale (change)", abs(one - other), below=1e-10)
    centred = (x - x.mean(0)).numpy()
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    top = np.linalg.eigh(centred.T @ centred)[1][:, -3:]
    by_hand = float(((centred - centred @ top @ top.T) ** 2).sum(1).mean())
    run.check("NRC1 against projections by numpy (error)", abs(one - by_hand), below=1e-10)


def _teacher(seed: int, rows: int, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Twelve inputs, five targets of a network with 32 tanh units; the test targets without noise."""
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(12, 32, generator=g) / 3**0.5, torch.randn(32, 5, generator=g) / 32**0.5
    x, test = torch.randn(rows, 12, generator=g), torch.randn(1000, 12, generator=g)
    y, test_y = (torch.tanh(v @ first) @ second for v in (x, test))
    return x, y + noise * torch.randn(rows, 5, generator=g), test, test_y


def _student(
    measure: Callable[..., Any], seed: int, decay: float, rows: int, noise: float, steps: int
) -> Mapping[str, float]:
    torch.set_num_threads(1)
    x, y, test, test_y = _teacher(seed, rows, noise)
    model = transfer.mlp(seed, (12, 128, 128, 64, 5))
    optim.fit(
        model, (x, y), lambda module, a, b: F.mse_loss(module(a), b), steps=steps, batch_size=64, lr=0.05,
        optimizer=lambda groups: torch.optim.SGD(
            [p for group in groups for p in group["params"]], lr=0.05, momentum=0.9, weight_decay=decay
        ),
        generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    with torch.no_grad():
        features = model[:-1](x)
        found = measure(features, y)
        return {
            "weight decay": decay, "seed": seed, "ID_H": found.features, "ID_Y": found.targets, "NRC1": found.nrc1,
            "NRC2": float(regression_collapse.nrc2(features, model[-1].weight)),
            "over-compressed": float(found.name == "over-compressed"),
            "training error": float(F.mse_loss(model(x), y)), "test error": float(F.mse_loss(model(test), test_y)),
        }  # fmt: skip


def _sweep(run: Run, decays: tuple[float, ...], seeds: int, rows: int, noise: float, steps: int) -> Any:
    import pandas

    jobs = [
        joblib.delayed(_student)(regression_collapse.regression_regime, run.seed + s, decay, rows, noise, steps)
        for s in range(seeds) for decay in decays
    ]  # fmt: skip
    results = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    return pandas.DataFrame(list(run.progress(results, "students", total=len(jobs))))


def regimes_are_told(run: Run, decays: tuple[float, ...] = (0.0, 5e-3, 5e-2), seeds: int = 1, steps: int = 300) -> None:
    """Networks trained with growing weight decay on 600 rows with little noise, and on 150 with much."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for panel, rows, noise in ((panels[0], 600, 0.1), (panels[1], 150, 0.7)):
        frame = _sweep(run, decays, seeds, rows, noise, steps)
        means = frame.groupby("weight decay").mean().drop(columns="seed")
        run.table(f"{rows} rows, noise {noise}", means, f"Means over {seeds} seed(s). Test targets have no noise.")
        for seed, group in frame.groupby("seed"):
            panel.plot(group["ID_H"] / group["ID_Y"], group["test error"], "o-", alpha=0.8, label=f"seed {seed}")
        panel.axvline(1.0, linestyle="--", color="C5")
        panel.set(
            xlabel="ID of the features / ID of the targets", ylabel="test error", title=f"{rows} rows, noise {noise}"
        )
        by_seed = [group.sort_values("weight decay") for _, group in frame.groupby("seed")]
        if rows == 600:
            drops = max(float(g[c].diff().max()) for g in by_seed for c in ("NRC1", "ID_H"))
            run.check("NRC1 and ID_H fall with every step of weight decay (largest change)", drops, below=0.0)
            first, last = means.iloc[0], means.iloc[-1]
            run.check("NRC1 without decay", first["NRC1"], above=0.1)
            run.check("NRC1 with the largest decay", last["NRC1"], below=0.01)
            told = [(g["over-compressed"].iloc[0], g["over-compressed"].iloc[-1]) for g in by_seed]
            run.check("regimes: under-compressed without decay, over-compressed with the largest, in every seed",
                      sum(t == (0.0, 1.0) for t in told), equals=seeds,
                      paper="ID_H > ID_Y and ID_H < ID_Y")  # fmt: skip
            worse = min(float(g["test error"].iloc[-1] / g["test error"].min()) for g in by_seed)
            run.check("test error of the collapsed network over the best's, least over seeds", worse, above=1.5,
                      paper="collapse in regression consistently degrades performance")  # fmt: skip
        else:
            gain = min(float(g["test error"].iloc[0] / g["test error"].min()) for g in by_seed)
            run.check("few noisy rows: error without decay over the best's, least over seeds", gain, above=1.15,
                      paper="under-compressed: fewer dimensions help, by data quantity and noise")  # fmt: skip
            best = [g.loc[g["test error"].idxmin()] for g in by_seed]
            shrunk = max(float(b["ID_H"] / g["ID_H"].iloc[0]) for b, g in zip(best, by_seed))
            run.check("… and ID_H of the best over that without decay, most over seeds", shrunk, below=0.7)
    panels[0].legend()
    run.plot("regimes", figure, "Weight decay grows along each line from right to left; left of the dashed line the "
             "features have fewer dimensions than the targets.")  # fmt: skip


def experiment(run: Run, *, seeds: int = 2, steps: int = 400) -> None:
    """The estimators on known sets, NRC1 on known features, and networks over a range of weight decays.

    Args:
        seeds: teachers and students (full only).
        steps: of each training (full only).
    """
    dimensions_are_right(run)
    twonn_agrees(run)
    collapse_is_measured(run)
    if run.quick:
        regimes_are_told(run)
    else:
        regimes_are_told(run, DECAYS, seeds, steps)
    run.text(
        "regimes",
        "With plenty of clean data the error rises as soon as the features have fewer dimensions than the targets. "
        "With few noisy rows it falls first: the dimensions that decay removes had held noise.",
    )
