"""Neural collapse in transfer: features of few classes that are tight on new ones (Galanti et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor, nn

from gramian import optim
from gramian.analysis.geometry import collapse, few_shot, statistics
from gramian.data.synthetic import latent_classes
from gramian.lab import Card, Run
from gramian.surgery.adapters import transfer

CARD = Card(
    title="On the Role of Neural Collapse in Transfer Learning",
    row=147,
    arxiv="2112.15121",
    year=2021,
    kind="theory",
    idea="The class-distance normalized variance of two classes is their mean variance over the squared distance of "
    "their means. Training for classification makes it small, on the training samples, on new samples, and on classes "
    "never seen; where it is small, the nearest class mean classifies from a few examples.",
    claim="Collapse generalizes to new samples of the training classes and to new classes, the better the more classes "
    "there were, and its variance bounds the error of few-shot classification.",
    keywords=("neural collapse", "few-shot learning", "foundation models", "nearest class mean", "CDNV", "NC1", "NC2"),
    api=(
        "gramian.analysis.geometry.collapse.cdnv",
        "gramian.analysis.geometry.collapse.nc1",
        "gramian.analysis.geometry.statistics.ClassStatistics",
        "gramian.analysis.geometry.few_shot.few_shot_accuracy",
        "gramian.data.synthetic.latent_classes.LatentClasses",
    ),
    use="stats = ClassStatistics(classes=10)\nfor x, y in batches:\n    stats.update(body(x), y)\ncdnv(stats)",
    reach="WideResNets on CIFAR-FS, Mini-ImageNet and EMNIST need GPUs; drawn classes and digits stand in",
    differs=(
        "The bound checked is Chebyshev's with true means, 4V for a pair's mean error; the paper's holds for means of "
        "few samples and has further terms and constants.",
        "Few-shot accuracy is that of the nearest class mean; the paper trains a ridge regression on the features.",
    ),
)


def _gaussians(generator: torch.Generator, dim: int, distance: float, rows: int) -> tuple[Tensor, Tensor]:
    """Two isotropic classes of unit variance, their means `distance` apart."""
    y = torch.arange(2).repeat(rows)
    x = torch.randn(2 * rows, dim, generator=generator, dtype=torch.float64)
    return x + distance * y[:, None] * F.normalize(torch.ones(dim, dtype=torch.float64), dim=0), y


def variance_is_exact(run: Run) -> None:
    """The variance against its closed form, what it ignores, and its stream against the batch."""
    generator = run.generator()
    errors = []
    for dim, distance in ((5, 6.0), (20, 8.0), (64, 12.0)):
        x, y = _gaussians(generator, dim, distance, 20_000)
        found = float(collapse.cdnv(statistics.class_statistics(x, y)))
        errors.append(abs(found / (dim / distance**2) - 1))
    run.check("isotropic classes: variance against d s²/‖μ₁ − μ₂‖² (largest relative error)", max(errors), below=0.02)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64)).Q
    moved = float(collapse.cdnv(statistics.class_statistics(0.3 * x @ turn + 5, y)))
    run.check("after rotation, shift and scale (relative change)", abs(moved / found - 1), below=1e-9)
    point = float(collapse.cdnv(statistics.class_statistics(torch.eye(4)[y + 1], y)))
    run.check("of classes that are points", point, between=(0.0, 1e-12))
    stream = statistics.ClassStatistics(2)
    shard = statistics.ClassStatistics(2)
    for k, rows in enumerate(torch.randperm(len(y), generator=generator).split(777)):
        (stream if k % 2 else shard).update(x[rows], y[rows])
    stream.merge(shard)
    gap = abs(float(collapse.cdnv(stream)) / found - 1)
    run.check("in batches of 777 over two shards, against all rows at once (relative error)", gap, below=1e-8)


def variance_bounds_the_error(run: Run, pairs: int = 500, rows: int = 200) -> None:
    """Chebyshev: the nearer of two true means is wrong at most 4V of the time, whatever the distribution."""
    from matplotlib import pyplot

    generator, rng = run.generator(1), run.rng(1)
    bounds, wrong, excess = [], [], []
    for _ in range(pairs):
        dim = int(rng.integers(1, 12))
        means = torch.randn(2, dim, generator=generator, dtype=torch.float64)
        scales = torch.tensor(rng.uniform(0.02, 1.0) * rng.uniform(0.3, 1.0, (2, dim)))
        degrees = float(rng.uniform(2.2, 8.0))  # Student's t: a variance, and little beyond
        y = torch.arange(2).repeat_interleave(rows)
        noise = torch.tensor(rng.standard_t(degrees, (2 * rows, dim)))
        x = means[y] + scales[y] * noise
        stats = statistics.ClassStatistics(2)
        stats.counts, stats.means = torch.tensor([rows, rows]), means
        stats.spreads = rows * degrees / (degrees - 2) * scales.square().sum(1)
        bound = 4 * float(collapse.cdnv(stats))
        error = float((collapse.nearest_mean(means, x) != y).double().mean())
        bounds.append(bound)
        wrong.append(error)
        excess.append(error - bound - 3 * (max(error * (1 - error), 1 / rows) / (2 * rows)) ** 0.5)
    run.check(f"{pairs} heavy-tailed pairs: error above 4V and three standard errors, at most", max(excess), below=0.0)
    tight = sum(b < 0.25 for b in bounds)
    run.check("… of them, pairs for which the bound is below 1/4", tight, above=pairs // 10)
    x, y = _gaussians(generator, 6, 2.0, 40_000)
    means = torch.stack((torch.zeros(6), 2 * F.normalize(torch.ones(6), dim=0))).double()
    right = float((collapse.nearest_mean(means, x) == y).double().mean())
    run.check(
        "isotropic classes, true means: accuracy minus Φ(‖μ₁ − μ₂‖/2s)", abs(right - float(ndtr(1.0))), below=0.01
    )
    figure, panel = pyplot.subplots(figsize=(5.4, 3.6))
    some = np.array(wrong) > 0
    panel.loglog(np.array(bounds)[some], np.array(wrong)[some], ".", alpha=0.5)
    line = np.array([0.3 / rows, 1.0])
    panel.plot(line, line, "--", color="C1", label="the bound, 4V")
    panel.set(xlabel="4V", ylabel="share of wrong answers")
    panel.legend()
    run.plot("bound", figure, f"Each point two classes with heavy tails, {rows} rows each. "
             f"{int((~some).sum())} pairs without a wrong answer are not drawn.")  # fmt: skip


def episodes_agree_with_centroids(run: Run) -> None:
    """Few-shot accuracy, all episodes at once, against scikit-learn's classifier one by one."""
    from sklearn.neighbors import NearestCentroid

    generator = run.generator(2)
    source = latent_classes.LatentClasses(generator=generator, nuisance=0.5)
    x, y = source.samples(source.classes(8, generator), 25, generator)
    draw = {"ways": 5, "shots": 3, "queries": 10, "count": 30}
    found = few_shot.few_shot_accuracy(x, y, **draw, generator=run.generator(3))
    learn, test = few_shot.episodes(y, **draw, generator=run.generator(3))
    gaps = []
    for rows, asked, accuracy in zip(learn.flatten(1).numpy(), test.flatten(1).numpy(), found.accuracies):
        model = NearestCentroid().fit(x[rows].numpy(), y[rows].numpy())
        gaps.append(abs(model.score(x[asked].numpy(), y[asked].numpy()) - float(accuracy)))
    run.check("30 episodes against sklearn's NearestCentroid (largest difference of accuracy)", max(gaps), below=1e-9)


def _fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int) -> None:
    optim.fit(
        model, (x, y), lambda module, a, b: F.cross_entropy(module(a), b), epochs=epochs, lr=2e-3, weight_decay=5e-3,
        batch_size=64, generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip


def _measured(library: Mapping[str, Any], features: Tensor, labels: Tensor, ways: int) -> dict[str, float]:
    accuracy = library["few_shot"](
        features, labels, ways=ways, shots=5, queries=15, count=200, generator=torch.Generator().manual_seed(0)
    )
    return {"variance": float(library["cdnv"](statistics.class_statistics(features, labels))),
            "5-shot accuracy": accuracy.mean}  # fmt: skip


def _transfer(library: Mapping[str, Any], seed: int, source_classes: int, rows: int, epochs: int) -> dict[str, float]:
    """Train on some classes, look at the features of 40 others."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    source = latent_classes.LatentClasses(generator=generator)
    new = source.samples(source.classes(40, generator), 40, generator)
    classes = source.classes(source_classes, generator)
    train = source.samples(classes, rows // source_classes, generator)
    fresh = source.samples(classes, 40, generator)
    model = transfer.mlp(seed, (32, 128, 64, source_classes))
    body = model[:-1]
    with torch.no_grad():
        start = _measured(library, body(new[0]), new[1], 5)
    _fit(model, *train, epochs, seed)
    with torch.no_grad():
        inside = {name: float(library["cdnv"](statistics.class_statistics(body(x), y)))
                  for name, (x, y) in (("training samples", train), ("new samples", fresh))}  # fmt: skip
        end = _measured(library, body(new[0]), new[1], 5)
    return {
        "source classes": source_classes, "seed": seed, **inside, "new classes": end["variance"],
        "new classes, untrained": start["variance"], "5-shot": end["5-shot accuracy"],
        "5-shot, untrained": start["5-shot accuracy"], "5-shot, raw": _measured(library, *new, 5)["5-shot accuracy"],
    }  # fmt: skip


def collapse_transfers(
    run: Run, sources: tuple[int, ...] = (4, 32), seeds: int = 1, rows: int = 1280, epochs: int = 8
) -> None:
    """Classes drawn from one distribution: features learned on some of them, judged on others."""
    import pandas
    from matplotlib import pyplot

    library = {"cdnv": collapse.cdnv, "few_shot": few_shot.few_shot_accuracy}
    jobs = [joblib.delayed(_transfer)(library, run.seed + s, k, rows, epochs) for k in sources for s in range(seeds)]
    results = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    frame = pandas.DataFrame(list(run.progress(results, "source classes", total=len(jobs))))
    means = frame.groupby("source classes").mean().drop(columns="seed")
    run.table("transfer", means, f"Variances V and accuracies; means over {seeds} seed(s), {rows} training rows in "
              "all. New: classes that were not trained on; 5-shot among 5 of them (chance 0.2).")  # fmt: skip
    gap = float((frame["new samples"] / frame["training samples"]).max())
    run.check("variance on new samples over that on training samples, at most", gap, below=2.0,
              paper="collapse generalizes to new samples")  # fmt: skip
    fall = float((frame["new classes, untrained"] / frame["new classes"]).min())
    run.check("variance of new classes falls by training on others, at least by a factor of", fall, above=5.0,
              paper="and, more importantly, to new classes as well")  # fmt: skip
    few, many = frame["source classes"] == min(sources), frame["source classes"] == max(sources)
    ratio = float((frame[few]["new classes"].to_numpy() / frame[many]["new classes"].to_numpy()).min())
    run.check(f"variance of new classes after {min(sources)} classes over that after {max(sources)}", ratio, above=1.3,
              paper="improves with the number of source classes")  # fmt: skip
    gain = float((frame["5-shot"] - frame[["5-shot, raw", "5-shot, untrained"]].max(axis=1)).min())
    run.check("5-shot accuracy on new classes above raw inputs and untrained features, at least", gain, above=0.15)
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for name in ("training samples", "new samples", "new classes"):
        panels[0].plot(means.index, means[name], "o-", label=name)
    panels[0].axhline(means["new classes, untrained"].mean(), linestyle="--", color="C3", label="new, untrained")
    panels[0].set(xscale="log", yscale="log", xlabel="source classes", ylabel="normalized variance")
    panels[0].legend()
    panels[1].plot(means.index, means["5-shot"], "o-", color="C2", label="trained on other classes")
    panels[1].axhline(means["5-shot, raw"].mean(), linestyle="--", color="C4", label="raw inputs")
    panels[1].axhline(means["5-shot, untrained"].mean(), linestyle="--", color="C3", label="untrained")
    panels[1].set(xscale="log", xlabel="source classes", ylabel="5-shot accuracy, new classes", ylim=(0.2, 1.0))
    panels[1].legend()
    for panel in panels:
        panel.set_xticks(list(sources), [str(k) for k in sources])
        panel.minorticks_off()
    run.plot("transfer", figure, "The same number of training rows, cut into more classes: new classes get tighter.")


def _digits(library: Mapping[str, Any], seed: int, epochs: int) -> list[dict[str, float]]:
    """Digits 0–6 are trained, 7–9 are new; every few epochs a row."""
    torch.set_num_threads(1)
    found = transfer.load_digits()
    old, held = found.train_labels < 7, found.test_labels < 7
    x, y = found.train[old], found.train_labels[old]
    test, test_labels = found.test[held], found.test_labels[held]
    new = torch.cat((found.train[~old], found.test[~held]))
    new_labels = torch.cat((found.train_labels[~old], found.test_labels[~held])) - 7
    model = transfer.mlp(seed, (64, 128, 64, 7))
    body = model[:-1]
    rows: list[dict[str, float]] = []
    for epoch in range(0, epochs + 1, 5):
        if epoch:
            _fit(model, x, y, 5, seed * 1000 + epoch)
        with torch.no_grad():
            stats = statistics.class_statistics(body(x), y)
            inside, outside = (_measured(library, body(a), b, 3) for a, b in ((test, test_labels), (new, new_labels)))
            rows.append({
                "epoch": epoch, "training samples": float(library["cdnv"](stats)),
                "test samples": inside["variance"], "new classes": outside["variance"],
                "5-shot, 7–9": outside["5-shot accuracy"], "NC1": float(collapse.nc1(stats, "trace")),
                "NC2, angles": float(collapse.nc2(stats).angles),
                "NC4": collapse.nc4(stats, body(x), model(x).argmax(-1)),
                "5-shot, 7–9, pixels": _measured(library, new.flatten(1), new_labels, 3)["5-shot accuracy"],
            })  # fmt: skip
    return rows


def digits_collapse(run: Run, seeds: int = 3, epochs: int = 30) -> None:
    """Digits 0–6: collapse on samples held out, and what it is worth for 7–9."""
    import pandas

    library = {"cdnv": collapse.cdnv, "few_shot": few_shot.few_shot_accuracy}
    jobs = [joblib.delayed(_digits)(library, run.seed + s, epochs) for s in range(seeds)]
    runs = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    histories = [pandas.DataFrame(r).set_index("epoch") for r in run.progress(runs, "digits", total=seeds)]
    fall = min(float(h["test samples"].iloc[0] / h["test samples"].iloc[-1]) for h in histories)
    run.check("digits held out: variance before training over that after, least", fall, above=3.0)
    mean = sum(histories) / len(histories)
    run.table("digits", mean, f"Trained on 0–6, judged on 7–9; means over {seeds} seed(s). NC4: share of training "
              "rows where the network and the nearest class mean disagree.")  # fmt: skip
    raw, start, end = (float(mean[n].iloc[k]) for n, k in
                       (("5-shot, 7–9, pixels", 0), ("5-shot, 7–9", 0), ("5-shot, 7–9", -1)))  # fmt: skip
    run.text(
        "digits",
        f"Seven classes are too few for this to carry over: on 7, 8 and 9 the raw pixels give {raw:.3f}, untrained "
        f"features {start:.3f} and trained ones {end:.3f}. Collapse on the trained classes is not collapse on new "
        "ones; that takes many classes, as the drawn ones show.",
    )


def experiment(run: Run, *, seeds: int = 3, epochs: int = 12) -> None:
    """The variance, its bound, few-shot episodes, and transfer between drawn classes and between digits.

    Args:
        seeds: trainings per setting (full only).
        epochs: of the trainings on drawn classes (full only).
    """
    variance_is_exact(run)
    variance_bounds_the_error(run, 200 if run.quick else 500)
    episodes_agree_with_centroids(run)
    if run.quick:
        collapse_transfers(run)
        digits_collapse(run, seeds=1, epochs=5)
    else:
        collapse_transfers(run, (4, 16, 64), seeds, 2560, epochs)
        digits_collapse(run, seeds, 20)
