"""M-FAC: products with the inverse Fisher matrix of a window of gradients (Frantar, Kurtic & Alistarh, 2021)."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import pyplot
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gramian import optim
from gramian.analysis.fisher import accumulator
from gramian.lab import Card, Run
from gramian.linalg.factor import window as windows
from gramian.optim import mfac
from gramian.surgery.adapters import transfer
from gramian.surgery.prune import obs

CARD = Card(
    title="M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
    row=65,
    arxiv="2107.03356",
    year=2021,
    kind="method",
    idea="The empirical Fisher matrix of m gradients is damped identity plus m outer products, so its inverse is "
    "applied to a vector with the m gradients and an m × m matrix alone: O(dm) a product, no d × d matrix. A ring "
    "buffer keeps the window sliding during training; its diagonal ranks weights for pruning.",
    claim="Inverse-Hessian products in linear time and memory, exact for the windowed Fisher matrix, and better "
    "pruning than by magnitude at the same sparsity.",
    keywords=("second-order optimizer", "inverse Hessian", "optimal brain surgeon", "pruning", "Woodbury"),
    api=(
        "gramian.linalg.factor.window.WindowInverse",
        "gramian.optim.mfac.MFAC",
        "gramian.surgery.prune.obs.obs_prune",
    ),
    use="optimizer = MFAC(model.parameters(), lr=1e-3, window=32, damp=1e-4)\n"
    "obs_prune(model, gradients, sparsity=0.9, rounds=8)  # gradients: (samples, weights)",
    reach="ResNet and BERT on ImageNet and SQuAD: their pruning and training tables need GPUs and days",
    differs=(
        "The paper's recursion over gradients is one Cholesky factorization of the damped m × m Gram matrix, in "
        "float64; the results are the same numbers.",
        "The mean is over the gradients held so far, so that a window that is not yet full is not over-damped.",
        "The step for the newest gradient is taken in the form that subtracts nothing, exact in float32 at any "
        "damping.",
    ),
)


def inverse_is_exact(run: Run) -> None:
    """Products, diagonal and elements against the dense inverse, with a full window."""
    generator = run.generator()
    rows = torch.randn(12, 40, generator=generator, dtype=torch.float64)
    x = torch.randn(40, generator=generator, dtype=torch.float64)
    dense = torch.linalg.inv(1e-2 * torch.eye(40, dtype=torch.float64) + rows.T @ rows / 12)
    window = windows.WindowInverse(12, 40, 1e-2, dtype=torch.float64)
    for row in rows:
        window.push(row)
    elements = torch.stack([window.element(i, (7 * i) % 40) for i in range(40)])
    wanted = torch.stack([dense[i, (7 * i) % 40] for i in range(40)])
    found = {
        "product": (window.solve(x), dense @ x), "newest gradient": (window.solve_newest(), dense @ rows[-1]),
        "diagonal": (window.diag(), dense.diagonal()), "elements": (elements, wanted),
    }  # fmt: skip
    for name, (measured, exact) in found.items():
        run.check(f"{name} against the dense inverse (relative error)", _gap(measured, exact), below=1e-10)


def window_slides(run: Run) -> None:
    """After three windows of pushes, the ring buffer is a window built afresh from the last gradients."""
    generator = run.generator(1)
    rows = torch.randn(3 * 12 + 5, 60, generator=generator, dtype=torch.float64)
    x = torch.randn(60, generator=generator, dtype=torch.float64)
    sliding = windows.WindowInverse(12, 60, 1e-3, dtype=torch.float64)
    for row in rows:
        sliding.push(row)
    dense = 1e-3 * torch.eye(60, dtype=torch.float64) + rows[-12:].T @ rows[-12:] / 12
    run.check("sliding window against the last 12 gradients (relative error)",
              _gap(sliding.solve(x), torch.linalg.solve(dense, x)), below=1e-8)  # fmt: skip
    run.check("its diagonal", _gap(sliding.diag(), torch.linalg.inv(dense).diagonal()), below=1e-8)


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off when they die."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.seen and storage.nbytes():
                    self._born(storage)
        return out

    def _born(self, storage: Any) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def died() -> None:
            self.seen.discard(key)
            self.live -= size

        weakref.finalize(storage, died)


def memory_is_one_buffer(run: Run, size: int = 1_000_000, window: int = 64) -> None:
    """The whole life of a window allocates little beyond its buffer."""
    gradient = torch.randn(size, generator=run.generator(2)) / size**0.5
    with LiveBytes() as bytes_:
        inverse = windows.WindowInverse(window, size, 1e-2)
        for i in range(window if not run.quick else 3):
            inverse.push(gradient.roll(i))
        answer = inverse.solve(gradient)
        inverse.solve_newest()
    share = bytes_.peak / (4 * size * window)
    run.check(f"peak bytes over those of the {window} gradients, d = {size:,}", share, between=(1.0, 1.3))
    x = answer.double()
    rows = inverse.rows[: inverse.held].double()
    back = 1e-2 * x + rows.T @ (rows @ x) / inverse.held
    run.check("F times the product gives the vector back (relative error)", _gap(back, gradient.double()), below=1e-4)


def optimizer_follows_the_dense_inverse(run: Run) -> None:
    """Ten steps of the optimizer on a small regression against the same steps with a dense inverse."""
    generator = run.generator(3)
    x = torch.randn(64, 5, generator=generator, dtype=torch.float64) * torch.logspace(0, -1.5, 5)
    y = x @ torch.randn(5, 2, generator=generator, dtype=torch.float64)
    model = nn.Linear(5, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 5, generator=generator, dtype=torch.float64))
    theta, rows = model.weight.detach().clone(), []
    tuner = mfac.MFAC(model.parameters(), lr=0.02, window=4, damp=1e-2, momentum=0.0)
    for _ in range(10):
        gradient = 2 * (x @ theta.T - y).T @ x / y.numel()
        rows = (rows + [gradient.flatten()])[-4:]
        held = torch.stack(rows)
        matrix = 1e-2 * torch.eye(10, dtype=torch.float64) + held.T @ held / len(rows)
        theta = theta - 0.02 * torch.linalg.solve(matrix, rows[-1]).view(2, 5)
        tuner.zero_grad()
        F.mse_loss(model(x), y).backward()
        tuner.step()
    run.check("ten steps against the dense inverse (relative error)", _gap(model.weight, theta), below=1e-8)


def prunes_better_than_magnitude(
    run: Run, sparsities: tuple[float, ...] = (0.9,), seeds: int = 1, gradients: int = 600, rounds: int = 8
) -> None:
    """Digits, a network of 64-64-64-10, pruned at once, without retraining."""
    digits = transfer.load_digits()
    rows = []
    for seed in run.progress(range(run.seed, run.seed + seeds), "pruning a digits network"):
        model = transfer.mlp(seed, (64, 64, 64, 10))
        transfer.train(model, digits.train, digits.train_labels, steps=700, lr=2e-3, seed=seed)
        names = tuple(obs.prunable(model))

        def window(current: nn.Module, names: tuple[str, ...] = names) -> Tensor:
            fisher = accumulator.FisherAccumulator(current, "window", params=names, window=gradients)
            return fisher.update(digits.train[:gradients], digits.train_labels[:gradients]).value()

        for sparsity in sparsities:
            magnitude, surgeon = copy.deepcopy(model), copy.deepcopy(model)
            obs.magnitude_prune(magnitude, sparsity)
            done = obs.obs_prune(surgeon, window, sparsity, rounds, damp=1e-4)
            rows.append(
                {
                    "seed": seed, "sparsity": sparsity, "reached": done.sparsity, "dense": _accuracy(model, digits),
                    "magnitude": _accuracy(magnitude, digits), "M-FAC": _accuracy(surgeon, digits),
                }
            )  # fmt: skip
            run.log(**rows[-1])
    run.table("pruning", rows, "Test accuracy on digits after pruning, without retraining.")
    mean = {
        s: {k: sum(r[k] for r in rows if r["sparsity"] == s) / seeds for k in ("dense", "magnitude", "M-FAC")}
        for s in sparsities
    }
    high = mean[0.9]
    run.check(f"accuracy above magnitude pruning at 90% sparsity ({seeds} networks)",
              high["M-FAC"] - high["magnitude"], above=0.15, paper="ResNet-50, BERT: not reproduced here")  # fmt: skip
    run.check("share of weights that is gone", max(abs(r["reached"] - r["sparsity"]) for r in rows), below=1e-3)
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    for i, name in enumerate(("magnitude", "M-FAC")):
        axes.plot([100 * s for s in sparsities], [mean[s][name] for s in sparsities], "o-", color=f"C{i}", label=name)
        for row in rows:
            axes.plot(100 * row["sparsity"], row[name], ".", color=f"C{i}", alpha=0.5)
    axes.axhline(high["dense"], linestyle=":", linewidth=1.5, color="C2", label="not pruned")
    axes.set(xlabel="weights removed, %", ylabel="test accuracy", ylim=(0, 1.03), title="Digits, 64-64-64-10")
    axes.legend(loc="lower left")
    run.plot("pruning", figure, "Accuracy without retraining; dots are single networks, lines their means.")
    run.text(
        "What is seen",
        f"At 90% sparsity {high['M-FAC']:.2f} of the test digits are read after M-FAC's pruning, which moves the "
        f"remaining weights, and {high['magnitude']:.2f} after magnitude pruning; {high['dense']:.2f} before. The "
        f"inverse comes from {gradients} gradients for 8,832 weights.",
    )


def trains_digits(run: Run, steps: int = 300) -> None:
    """The optimizer on digits beside SGD and Adam: reported, not gated."""
    digits = transfer.load_digits()
    tuners = {
        "M-FAC": (1e-3, lambda groups: mfac.MFAC(groups, window=32, damp=1e-3)),
        "SGD with momentum": (5e-2, lambda groups: torch.optim.SGD(groups, momentum=0.9)),
        "Adam": (2e-3, torch.optim.Adam),
    }
    rows = []
    for name, (lr, tuner) in run.progress(tuners.items(), "training with three optimizers", total=len(tuners)):
        model = transfer.mlp(run.seed, (64, 64, 64, 10))
        history = optim.fit(
            model, [digits.train.clone(), digits.train_labels], lambda m, x, y: F.cross_entropy(m(x), y), steps=steps,
            lr=lr, optimizer=tuner, generator=run.generator(4), show_progress=False,
        )  # fmt: skip
        rows.append(
            {
                "optimizer": name,
                "learning rate": lr,
                "training loss": history.rows[-1]["loss"],
                "test": _accuracy(model, digits),
            }
        )
    run.table("optimizers", rows, f"{steps} steps on digits, one seed, learning rates by hand; no claim is made.")
    run.check("test accuracy after training with M-FAC", rows[0]["test"], above=0.9)


def _accuracy(model: nn.Module, digits: transfer.Digits) -> float:
    return transfer.accuracy(model, digits.test, digits.test_labels)


def _gap(measured: Tensor, exact: Tensor) -> float:
    return float((measured.detach() - exact).norm() / exact.norm())


def experiment(run: Run, *, seeds: int = 3) -> None:
    """Exactness of the windowed inverse, its memory, its optimizer's steps, and pruning with it.

    Args:
        seeds: how many networks the full profile prunes.
    """
    inverse_is_exact(run)
    window_slides(run)
    optimizer_follows_the_dense_inverse(run)
    memory_is_one_buffer(run, 1_000_000, 64)
    if run.quick:
        prunes_better_than_magnitude(run, gradients=300, rounds=5)
    else:
        prunes_better_than_magnitude(run, (0.5, 0.7, 0.8, 0.9, 0.95), seeds)
        trains_digits(run)
