"""What can a single attention layer learn? Random heads, trained values (Fu, Guo, Bai and Mei, 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from gramian.data.synthetic import query_keys
from gramian.estimators.regression import random_features
from gramian.lab import Card, Run
from gramian.linalg.random import arc_cosine
from gramian.nn.attention import rf_attention as attention

CARD = Card(
    title="What can a Single Attention Layer Learn? A Study Through the Random Features Lens",
    row=218,
    arxiv="2307.11353",
    year=2023,
    kind="theory",
    idea="Freeze random queries and keys of many attention heads and train the values only: a linear regression on "
    "features that do not care in which order the keys come.",
    claim="Such a layer learns functions of a query and a set of keys from fewer samples than random features of all "
    "numbers in a row; heads whose query-key matrix has a mean do better on functions of how alike query and key are.",
    keywords=("attention", "random features", "kernel", "permutation invariance", "sets", "sample complexity"),
    api=(
        "gramian.nn.attention.rf_attention.RandomFeatureAttention",
        "gramian.estimators.regression.random_features.RFAttentionRegressor",
        "gramian.linalg.random.arc_cosine.attention_kernel",
    ),
    use="model = RFAttentionRegressor(heads=300, mean=3.0)\nmodel.fit(tokens, targets)     # tokens: query first, then "
    "keys\nmodel.predict(tokens)",
    reach="rates of the excess risk are upper bounds; the slope over heads is shown, not judged",
    differs=(
        "A mean of the query-key matrix helps where the key's weight is relu of ⟨query, key⟩. Where it is ⟨query, key⟩ "
        "itself, both signs of which count, zero-mean heads are as good or better here: shown, not judged.",
        "A 1 is appended to every token; without it functions that do not grow with the query cannot be learned.",
    ),
)

FEATURES, KEYS = 8, 16


def _draw(run: Run, kind: str, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples and targets around a hidden direction that the seed fixes; the first 1,000 are for tests."""
    generator = run.generator(seed)
    beta = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    x = query_keys.query_keys(1000 + samples, KEYS, FEATURES, generator)
    return x.numpy(), query_keys.target(x, beta / beta.norm(), kind).numpy()


def _error(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Squared error on the test samples over their variance, fitted to the others."""
    found = model.fit(x[1000:], y[1000:]).predict(x[:1000])
    return float(np.square(found - y[:1000]).mean() / y[:1000].var())


def kernel_is_the_limit(run: Run, heads: int = 200_000) -> None:
    """The empirical kernel of many heads against the closed form; its signs; the order of the keys."""
    x = query_keys.query_keys(6, 5, 4, run.generator(0))
    kernel = arc_cosine.attention_kernel(arc_cosine.with_constant(x), arc_cosine.with_constant(x))
    total, chunk = torch.zeros_like(kernel), 10_000
    for start in range(heads // chunk):
        layer = attention.RandomFeatureAttention(4, chunk, generator=run.generator(1 + start)).double()
        features = layer.feature_map(x)
        total += features @ features.mT / (heads // chunk)
    error = float((total - kernel).norm() / kernel.norm())
    run.check(f"kernel of {heads:,} heads against the closed form (relative)", error, below=0.03, paper="the limit")
    least = float(torch.linalg.eigvalsh(kernel).min() / kernel.diagonal().mean())
    run.check("least eigenvalue of the kernel of 6 samples, over its mean diagonal", least, above=1e-6,
              paper="positive definite")  # fmt: skip
    layer = attention.RandomFeatureAttention(4, 64, generator=run.generator(99)).double()
    with torch.no_grad():
        layer.value.normal_(generator=run.generator(98))
    order = torch.tensor([0, 3, 5, 1, 4, 2])
    layer.requires_grad_(False)
    change = float((layer(x[:, order]) - layer(x)).abs().max() / layer(x).abs().max())
    moved = float((layer(x.roll(1, 1)) - layer(x)).abs().max() / layer(x).abs().max())
    run.check("output after the keys change places (relative)", change, below=1e-6, paper="invariant")
    run.check("output after a key becomes the query (relative)", moved, above=0.01, paper="the query is told apart")


def primal_is_dual(run: Run) -> None:
    """The estimator's fit against kernel ridge regression on the same heads' kernel."""
    x, y = _draw(run, "rectified", 120, 5)
    model = random_features.RFAttentionRegressor(50, alpha=0.1, random_state=run.seed)
    found = model.fit(x[1000:], y[1000:]).predict(x[:1000])
    features = model.layer_.feature_map(torch.from_numpy(x)).detach().numpy()
    gram = features[1000:] @ features[1000:].T
    oracle = KernelRidge(alpha=0.1, kernel="precomputed").fit(gram, y[1000:])
    expected = oracle.predict(features[:1000] @ features[1000:].T)
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    run.check("ridge on the features against kernel ridge on their products (relative)", error, below=1e-6)


def sets_are_learned(run: Run, sizes: Sequence[int], seeds: int, heads: int) -> None:
    """Test errors over sample sizes: zero-mean heads, shifted heads, and random features of all numbers in a row."""
    rows, curves = [], {}
    for kind in query_keys.TARGETS:
        for size in sizes:
            errors: dict[str, list[float]] = {"heads, mean 0": [], "heads, mean 3": [], "random features": []}
            for seed in range(seeds):
                x, y = _draw(run, kind, size, 10 + seed)
                for name, mean in (("heads, mean 0", 0.0), ("heads, mean 3", 3.0)):
                    model = random_features.RFAttentionRegressor(heads, mean=mean, random_state=run.seed + seed)
                    errors[name].append(_error(model, x, y))
                flat = random_features.RandomFeatureRidge(heads * (FEATURES + 1), random_state=run.seed + seed)
                errors["random features"].append(_error(flat, x.reshape(len(x), -1), y))
            curves[kind, size] = errors
            rows.append({"target": kind, "samples": size, **{k: float(np.mean(v)) for k, v in errors.items()}})
    run.table("errors", rows, f"Test error over the variance, mean of {seeds} seed(s); {heads} heads, and as many "
              "plain features as the heads have numbers.")  # fmt: skip
    last = sizes[-1]
    ratio = max(
        a / b for a, b in zip(curves["square", last]["heads, mean 0"], curves["square", last]["random features"])
    )
    run.check(f"mean of ⟨β, key⟩², {last} samples: error of heads over random features', worst seed", ratio, below=0.5,
              paper="fewer samples")  # fmt: skip
    worst = max(
        a / b for size in sizes
        for a, b in zip(curves["rectified", size]["heads, mean 3"], curves["rectified", size]["heads, mean 0"])
    )  # fmt: skip
    run.check("keys like the query: error of heads with a mean over heads without, worst size and seed", worst,
              below=0.5, paper="better sample complexity")  # fmt: skip
    _plot(run, rows, sizes)


def _plot(run: Run, rows: list[dict[str, Any]], sizes: Sequence[int]) -> None:
    from matplotlib import pyplot

    titles = {
        "square": "mean of ⟨β, key⟩²",
        "correlation": "weight ⟨query, key⟩",
        "rectified": "weight relu⟨query, key⟩",
    }
    figure, panels = pyplot.subplots(1, 3, figsize=(10.5, 3.3), sharey=True)
    for panel, (kind, title) in zip(panels, titles.items()):
        for name in ("heads, mean 0", "heads, mean 3", "random features"):
            panel.plot(sizes, [r[name] for r in rows if r["target"] == kind], "o-", label=name)
        panel.set(title=title, xlabel="samples", xscale="log", yscale="log")
        panel.set_xticks(sizes, sizes)
        panel.minorticks_off()
    panels[0].set_ylabel("test error / variance")
    panels[0].legend(fontsize=8)
    run.plot("errors", figure, "Three functions of a query and 16 keys. Heads treat the keys as a set; random features "
             "of all numbers in a row must learn that first.")  # fmt: skip


def error_over_heads(run: Run, counts: Sequence[int] = (10, 30, 100, 300), samples: int = 200) -> None:
    """How the error above that of infinitely many heads falls with the number of heads: shown, not judged."""
    x, y = _draw(run, "rectified", samples, 3)
    tokens = arc_cosine.with_constant(torch.from_numpy(x))
    kernel: Tensor = arc_cosine.attention_kernel(tokens, tokens[1000:])
    limit = KernelRidge(alpha=1e-3, kernel="precomputed").fit(kernel[1000:].numpy(), y[1000:])
    floor = float(np.square(limit.predict(kernel[:1000].numpy()) - y[:1000]).mean() / y[:1000].var())
    rows = []
    for heads in counts:
        errors = [_error(random_features.RFAttentionRegressor(heads, alpha=1e-3, random_state=s), x, y) for s in (0, 1)]
        rows.append(
            {"heads": heads, "error": float(np.mean(errors)), "above the kernel's": float(np.mean(errors)) - floor}
        )
    excess = [max(r["above the kernel's"], 1e-12) for r in rows]
    slope = np.polyfit(np.log(counts), np.log(excess), 1)[0]
    run.table("heads", rows, f"Weight relu⟨query, key⟩, {samples} samples. Infinitely many heads: {floor:.4f}; the "
              f"excess falls like the heads to the power {slope:.2f} (the bound: −1).")  # fmt: skip


def experiment(run: Run, *, seeds: int = 3, heads: int = 200) -> None:
    """The kernel limit, primal and dual, errors over sample sizes, and (full) errors over heads.

    Args:
        seeds: draws of data and heads (full only).
        heads: of the comparison over sample sizes (full only).
    """
    kernel_is_the_limit(run, 100_000 if run.quick else 200_000)
    primal_is_dual(run)
    if run.quick:
        sets_are_learned(run, (200, 500), 1, 200)
    else:
        sets_are_learned(run, (200, 500), seeds, heads)
        error_over_heads(run)
    run.text(
        "what it shows",
        "An attention layer whose queries and keys were never trained still reads sets: from 500 samples it predicts a "
        "mean over keys that plain random features of the same size cannot find at all. And a little structure in the "
        "random matrices goes far: heads that lean towards ⟨query, key⟩ pick out the keys that look like the query.",
    )
