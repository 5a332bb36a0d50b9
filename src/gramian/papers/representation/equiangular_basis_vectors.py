"""Equiangular basis vectors: a fixed head of nearly orthogonal unit vectors in place of the classifier (2023)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from gramian.lab import Card, Run
from gramian.linalg.manifold import frames
from gramian.nn import fixed_head
from gramian.optim.fit import fit

CARD = Card(
    title="Equiangular Basis Vectors",
    row=15,
    year=2023,
    kind="method",
    arxiv="2303.11637",
    idea="Give every class a fixed unit vector, all pairs nearly at right angles, and train the network to point at "
    "them: the classifier has no parameter, and more classes than dimensions fit.",
    claim="Vectors of the least possible coherence can be generated, for many classes without a quadratic matrix, "
    "and a network trained towards them classifies as well as one with a learned softmax layer.",
    keywords=(
        "fixed classifier",
        "Welch bound",
        "coherence",
        "metric learning",
        "many classes",
        "equiangular tight frame",
    ),
    api=(
        "gramian.linalg.manifold.frames.equiangular_vectors",
        "gramian.linalg.manifold.frames.welch_bound",
        "gramian.nn.fixed_head.FixedHead",
    ),
    use="head = FixedHead(equiangular_vectors(1000, 100, alpha=0.25))\n"
    "loss = torch.nn.functional.cross_entropy(head(features), labels)",
    reach="training on ImageNet; handwritten digits stand in",
    differs=(
        "The paper generates its vectors by plain gradient descent on the excess over alpha; so do we when alpha is "
        "given. For the smallest alpha we start from alternating projections and a falling limit and polish with a "
        "softened maximum, which reaches the Welch bound wherever an equiangular tight frame exists.",
    ),
)


def experiment(run: Run, *, classes: int = 1000, dim: int = 100, alpha: float = 0.25) -> None:
    """Measure how close to the bounds the vectors come, and whether a network can be trained towards them.

    Args:
        classes: vectors of the large set.
        dim: their dimension.
        alpha: the coherence asked of them.
    """
    small_sets_reach_the_bound(run)
    large_sets_are_made_in_blocks(run, classes=classes, dim=dim, alpha=alpha)
    fixed_head_classifies(run, seeds=3 if run.quick else 8)


def small_sets_reach_the_bound(run: Run) -> None:
    """The coherence of small sets against Welch's lower bound, which equiangular tight frames attain."""
    rows = []
    sets = [(6, 3, 4, 1.01), (16, 6, 4, 1.01)]
    if not run.quick:
        sets += [(10, 5, 8, 1.01), (28, 7, 8, 1.01), (100, 50, 2, 1.1)]
    for count, dim, restarts, above in sets:
        vectors = frames.equiangular_vectors(
            count, dim, generator=run.generator(count), restarts=restarts, steps=200 if count < 100 else 500
        )
        reached, bound = _largest_cosine(vectors), frames.welch_bound(count, dim)
        rows.append({"vectors": count, "axes": dim, "largest |cosine|": reached, "Welch bound": bound})
        claim = f"{count} vectors in {dim} axes: largest |cosine| as a multiple of the Welch bound"
        run.check(claim, reached / bound, between=(0.999, above), paper="as orthogonal as possible")
    run.table("coherence", rows, "No set of unit vectors can be below the bound.")


def _largest_cosine(vectors: torch.Tensor) -> float:
    """By its definition, in float64, independently of `frames.coherence`."""
    w = vectors.double().numpy()
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    return float(np.abs(w @ w.T - np.eye(len(w))).max())


def large_sets_are_made_in_blocks(run: Run, *, classes: int = 1000, dim: int = 100, alpha: float = 0.25) -> None:
    """A large set below a given coherence, and what the generator holds in memory meanwhile."""
    from matplotlib import pyplot
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    self.entries = max(self.entries, tensor.numel())
            return result

    with Largest() as watched:
        vectors = frames.equiangular_vectors(classes, dim, alpha, generator=run.generator(1), block=128)
    run.check(
        f"{classes} vectors in {dim} axes: largest |cosine|",
        _largest_cosine(vectors),
        below=alpha + 1e-6,
        paper=f"alpha = {alpha}",
    )
    norms = vectors.norm(dim=-1)
    run.check("… and their norms, largest error", float((norms - 1).abs().max()), below=1e-5)
    claim = "largest tensor made on the way, as a share of the classes × classes matrix"
    run.check(claim, watched.entries / classes**2, below=0.2, paper="memory-sliced generation")

    start = torch.nn.functional.normalize(torch.randn(classes, dim, generator=run.generator(1)), dim=-1)
    figure, axis = pyplot.subplots()
    for name, w in (("random start", start), ("generated", vectors)):
        cosines = (w @ w.mT)[tuple(torch.triu_indices(classes, classes, offset=1))].abs()
        axis.hist(cosines.numpy(), bins=np.linspace(0, 0.5, 121), histtype="step", linewidth=1.6, label=name)
    axis.axvline(alpha, linestyle="--", color="C3", label=f"alpha = {alpha}")
    axis.axvline(frames.welch_bound(classes, dim), linestyle=":", color="C2", label="Welch bound")
    axis.set_yscale("log")
    axis.set_xlabel("|cosine| of a pair")
    axis.set_ylabel("pairs")
    axis.legend()
    run.plot("cosines", figure, f"All pairs of {classes} unit vectors in {dim} axes: only the tail has to move.")


class _Network(nn.Module):
    def __init__(self, features: int, dim: int, head: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, dim))
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def _cross_entropy(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(x), y)


def fixed_head_classifies(run: Run, *, seeds: int = 3) -> None:
    """Digits: ten fixed vectors in eight dimensions against a learned linear layer on the same body."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    accuracy: dict[str, list[float]] = {"fixed vectors": [], "learned layer": []}
    trainable = {}
    for seed in run.progress(range(seeds), "digits"):
        parts = train_test_split(
            digits.data / 16, digits.target, test_size=0.5, random_state=run.seed + seed, stratify=digits.target
        )
        x, x_test = (torch.tensor(p, dtype=torch.float32) for p in parts[:2])
        y, y_test = (torch.tensor(p) for p in parts[2:])
        vectors = frames.equiangular_vectors(10, 8, generator=run.generator(10 + seed), restarts=1, steps=100)
        for name in accuracy:
            torch.manual_seed(run.seed + seed)
            head = fixed_head.FixedHead(vectors) if name == "fixed vectors" else nn.Linear(8, 10)
            model = _Network(64, 8, head)
            trainable[name] = sum(p.numel() for p in head.parameters())
            fit(model, (x, y), _cross_entropy, epochs=30, batch_size=128, lr=1e-2, schedule="cosine",
                generator=run.generator(20 + seed), show_progress=False)  # fmt: skip
            with torch.no_grad():
                accuracy[name].append(float((model(x_test).argmax(-1) == y_test).double().mean()))
    means = {name: float(np.mean(scores)) for name, scores in accuracy.items()}
    rows = [
        {
            "head": name,
            "trainable in the head": trainable[name],
            "mean accuracy": means[name],
            "least": min(scores),
            "most": max(scores),
        }
        for name, scores in accuracy.items()
    ]
    run.table("digits", rows, f"Half the digits to fit, half to test; {seeds} seeds; the bodies start alike.")
    run.check("trainable parameters of the fixed head", trainable["fixed vectors"], equals=0)
    run.check(
        f"digits: mean accuracy with fixed vectors minus that with a learned layer, {seeds} seeds",
        means["fixed vectors"] - means["learned layer"],
        above=-0.01,
        paper="outperforms the fully connected layer on ImageNet-1K with a ResNet-50; not reproducible here, "
        "digits stand in",
    )
    run.check("digits: mean accuracy with fixed vectors", means["fixed vectors"], above=0.94)
