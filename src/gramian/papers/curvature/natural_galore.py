"""Natural GaLore: a natural gradient inside GaLore's low-rank subspace (Das, 2024)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gramian import optim
from gramian.lab import Card, Run
from gramian.linalg.factor import window as windows
from gramian.optim import galore

CARD = Card(
    title="Natural GaLore: Accelerating GaLore for memory-efficient LLM Training and Fine-tuning",
    row=71,
    year=2024,
    arxiv="2410.16029",
    kind="method",
    idea="GaLore keeps Adam's moments for gradients projected on a few of their singular directions. The last few "
    "projected gradients make an empirical Fisher matrix there, whose damped inverse, by a small system, is applied "
    "before Adam.",
    claim="A drop-in replacement for AdamW that converges faster than GaLore, most of all under a small budget of "
    "steps, without additional memory.",
    keywords=("low-rank gradients", "optimizer memory", "natural gradient", "Woodbury", "AdamW", "subspace"),
    api=(
        "gramian.optim.galore.NaturalGaLore",
        "gramian.optim.galore.GaLoreProjector",
        "gramian.optim.galore.natural_direction",
        "gramian.optim.galore.galore_groups",
    ),
    use="groups = galore_groups([{'params': model.parameters()}], rank=128)\n"
    "optimizer = NaturalGaLore(groups, lr=1e-2, history=20, damp=1e-3)  # history=0: GaLore",
    reach="Llama models of 60M to 1.1B parameters on C4, RoBERTa on GLUE and TinyLlama on TinyAgent need GPUs and days",
    differs=(
        "The newest gradient is a column of the Fisher matrix, so its natural gradient is taken in a form without "
        "subtraction; the released difference of two nearly equal vectors loses most digits in float32.",
        "When the basis is renewed, history and first moment are turned into it; the released code goes on in the old "
        "coordinates.",
        "The released optimizer projects matrices on both sides (Tucker, one rank for every axis); here the shorter "
        "side is projected as in GaLore, and mode='tucker' does the other.",
        "Adam's epsilon is added after the correction of the second moment, as PyTorch does.",
    ),
)

LLAMA = {"60M": (512, 1376, 8, 128), "130M": (768, 2048, 12, 256), "350M": (1024, 2736, 24, 256),
         "1B": (2048, 5461, 24, 512)}  # fmt: skip
"""Width, MLP width, blocks, and the rank in the paper's table."""


def _gap(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def _released_form(rows: Tensor, damp: float) -> Tensor:
    """g/λ − G (I + GᵀG/λ)⁻¹ Gᵀg / λ² for the last row g: Woodbury's identity as it is usually written."""
    newest = rows[-1]
    small = torch.eye(len(rows), dtype=rows.dtype) + rows @ rows.mT / damp
    return (
        newest / damp
        - rows.mT @ torch.cholesky_solve((rows @ newest)[:, None], torch.linalg.cholesky(small))[:, 0] / damp**2
    )


def natural_step_is_exact(run: Run) -> None:
    """The natural direction in float32 against a dense inverse in float64, from light to heavy damping."""
    rows = torch.randn(7, 50, generator=run.generator())
    table = []
    for damp in (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e2):
        window = windows.WindowInverse(7, 50, damp, average="sum")
        found = rows[:1]
        for row in rows:
            found = galore.natural_direction(window, row.view(5, 10))
        wide = rows.double()
        dense = damp * torch.eye(50, dtype=torch.float64) + wide.T @ wide
        exact = torch.linalg.solve(dense, wide[-1])
        table.append({
            "damping": damp, "error here": _gap(found.reshape(-1), exact),
            "error of the usual form": _gap(_released_form(rows, damp), exact),
        })  # fmt: skip
    run.table("accuracy", table, "Relative error of the natural direction in float32, 7 gradients of 50 numbers.")
    at = next(r for r in table if r["damping"] == 1e-3)
    run.check("natural direction against the dense inverse, float32, λ = 1e-3 (relative error)", at["error here"],
              below=1e-6)  # fmt: skip
    run.check("… at any damping (worst)", max(r["error here"] for r in table), below=1e-6)
    run.check("the usual form loses digits at λ = 1e-3 (its error over ours)",
              at["error of the usual form"] / at["error here"], above=1e3)  # fmt: skip
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5, 3.4))
    panel.loglog([r["damping"] for r in table], [r["error of the usual form"] for r in table], "o-", label="difference")
    panel.loglog([r["damping"] for r in table], [r["error here"] for r in table], "o-", label="without subtraction")
    panel.set(xlabel="damping λ", ylabel="relative error in float32")
    panel.legend()
    run.plot("accuracy", figure, "The natural direction of the newest gradient, by Woodbury's identity in two forms.")


def _quadratic(run: Run, stream: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A start and a loss for a 6 × 9 matrix, in float64."""
    generator = run.generator(stream)
    a, b, start = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((12, 6), (12, 9), (6, 9)))
    return start, lambda w: 0.5 * (a @ w - b).square().mean()


def _trajectory(
    start: Tensor, loss: Callable[[Tensor], Tensor], steps: int, optimizer: Callable[..., Any], **settings: Any
) -> Tensor:
    parameter = nn.Parameter(start.clone())
    tuner = optimizer([parameter], **settings)
    path = []
    for _ in range(steps):
        tuner.zero_grad()
        loss(parameter).backward()
        tuner.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def steps_follow_dense_inverses(run: Run, steps: int = 12, gap: int = 4) -> None:
    """The optimizer against its algorithm written out, with bases renewed on the way and a dense inverse."""
    theta, loss = _quadratic(run, 1)
    found = _trajectory(theta, loss, steps, galore.NaturalGaLore, lr=0.05, rank=3, gap=gap, history=5, damp=1e-3,
                        scale=1)  # fmt: skip
    basis, first, second, past, path = theta, theta, 0.0, [], []
    for k in range(steps):
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(theta), theta)
        if k % gap == 0:
            fresh = torch.linalg.svd(gradient).U[:, :3]
            first = fresh.T @ basis @ first if k else torch.zeros(3, 9, dtype=torch.float64)
            past = [fresh.T @ basis @ r for r in past]
            basis = fresh
        past = [*past, basis.T @ gradient][-5:]
        columns = torch.stack([r.reshape(-1) for r in past], 1)
        matrix = 1e-3 * torch.eye(27, dtype=torch.float64) + columns @ columns.T
        u = torch.linalg.solve(matrix, columns[:, -1]).view(3, 9)
        first, second = 0.9 * first + 0.1 * u, 0.999 * second + 0.001 * u.square()
        root = (second / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8
        theta = theta.detach() - 0.05 * basis @ (first / (1 - 0.9 ** (k + 1)) / root)
        path.append(theta)
    claim = f"{steps} steps, the basis renewed every {gap}, against dense inverses (relative error)"
    run.check(claim, _gap(found, torch.stack(path)), below=1e-8)


def heavy_damping_is_galore(run: Run, steps: int = 50) -> None:
    """With λ large the natural gradient is the gradient over λ, and Adam does not see a scale."""
    start, loss = _quadratic(run, 2)
    settings = {"lr": 0.02, "rank": 3, "gap": 10, "eps": 1e-20, "scale": 1}
    plain = _trajectory(start, loss, steps, galore.NaturalGaLore, history=0, **settings)
    gaps = {
        damp: _gap(_trajectory(start, loss, steps, galore.NaturalGaLore, damp=damp, **settings) - start, plain - start)
        for damp in (1e6, 1e-3)
    }
    run.check(f"λ = 1e6: {steps} steps against GaLore's (relative gap of the ways)", gaps[1e6], below=1e-4)
    run.check("… and at λ = 1e-3 the way is another", gaps[1e-3], above=0.05)


def full_rank_is_adamw(run: Run, steps: int = 40) -> None:
    """With every direction kept, GaLore is AdamW on the coordinates in which the first gradient is diagonal."""
    start, loss = _quadratic(run, 3)
    ours = _trajectory(start, loss, steps, galore.NaturalGaLore, lr=0.03, weight_decay=0.1, rank=6, history=0, scale=1)
    point = start.clone().requires_grad_()
    basis = torch.linalg.svd(torch.autograd.grad(loss(point), point)[0]).U
    turned = _trajectory(basis.T @ start, lambda w: loss(basis @ w), steps, torch.optim.AdamW, lr=0.03,
                         weight_decay=0.1)  # fmt: skip
    run.check("full rank against AdamW on turned coordinates (relative error)", _gap(ours, basis @ turned), below=1e-8)


def bases_are_orthonormal(run: Run) -> None:
    """What each mode keeps of a gradient, and that its bases stay orthonormal."""
    generator = run.generator(4)
    left = torch.linalg.qr(torch.randn(24, 4, generator=generator, dtype=torch.float64)).Q
    worst, rows = 0.0, []
    for mode in galore.MODES:
        projector = galore.GaLoreProjector(4, gap=10, mode=mode)
        for _ in range(60):
            noise = 0.1 * torch.randn(24, 40, generator=generator, dtype=torch.float64)
            gradient = left @ torch.randn(4, 40, generator=generator, dtype=torch.float64) + noise
            projector.update(gradient)
            for basis in projector.bases.values():
                unit = torch.eye(basis.shape[1], dtype=torch.float64)
                worst = max(worst, float((basis.T @ basis - unit).abs().max()))
        inside = projector.project(gradient)
        kept = float((inside.square().sum() / gradient.square().sum()).sqrt())
        overlap = float(torch.linalg.svdvals(left.T @ projector.bases[0]).min())
        rows.append({"mode": mode, "numbers kept": inside.numel(), "of": gradient.numel(), "norm kept": kept,
                     "least cosine with the stream's subspace": overlap})  # fmt: skip
    run.table("modes", rows, "A stream of 24 × 40 gradients of rank 4 and noise: what is kept of the last one.")
    run.check("PᵀP = I over 60 steps of three modes (largest error)", worst, below=1e-12)
    run.check("least cosine of a basis with the stream's subspace", min(r[list(r)[-1]] for r in rows), above=0.97)
    gradient = torch.randn(30, 18, generator=generator, dtype=torch.float64)
    projector = galore.GaLoreProjector(5)
    projector.update(gradient)
    missed = (gradient - projector.back(projector.project(gradient))).norm()
    best = torch.linalg.svdvals(gradient)[5:].norm()
    run.check("what rank 5 misses of a gradient, over the least possible", float(missed / best),
              between=(1 - 1e-9, 1 + 1e-9))  # fmt: skip


def _per_matrix(m: int, n: int, rank: int, history: int, both: bool) -> int:
    """Numbers in the state for an m × n matrix, m ≤ n: moments, history, bases."""
    if both:
        sides = min(rank, m), min(rank, n)
        return sides[0] * sides[1] * (2 + history) + m * sides[0] + n * sides[1]
    return rank * n * (2 + history) + m * rank


def state_is_counted(run: Run, history: int = 20) -> None:
    """Numbers in the optimizer's state: counted, by formula, and for the paper's Llama models."""
    off = 0
    for (m, n, rank), mode in itertools.product(((48, 64, 6), (64, 48, 48)), ("svd", "tucker")):
        parameter = nn.Parameter(torch.zeros(m, n))
        tuner = galore.NaturalGaLore([parameter], rank=rank, history=history, mode=mode)
        parameter.grad = torch.randn(m, n, generator=run.generator(5))
        tuner.step()
        counted = sum(v for k, v in tuner.state_elements().items() if k != "gram")
        off = max(off, abs(counted - _per_matrix(min(m, n), max(m, n), rank, history, mode == "tucker")))
    run.check("numbers in the state: counted against r n (2 + s) + m r (largest difference)", off, equals=0)
    rows = []
    for name, (width, inner, blocks, rank) in LLAMA.items():
        shapes = [(width, width)] * 4 + [(width, inner)] * 3
        row: dict[str, Any] = {"model": name, "rank": rank}
        row["AdamW"] = blocks * sum(2 * m * n for m, n in shapes) / 1e6
        for label, s, both in (("GaLore", 0, False), ("Natural GaLore", history, False),
                               ("Natural, both sides", history, True)):  # fmt: skip
            row[label] = blocks * sum(_per_matrix(m, n, rank, s, both) for m, n in shapes) / 1e6
        rows.append(row)
    run.table("state", rows, f"Millions of numbers kept for the blocks' matrices of the paper's Llama models, s = "
              f"{history}, at the ranks of its table; both sides: as the released optimizer projects.")  # fmt: skip
    ratios = [r["Natural GaLore"] / r["AdamW"] for r in rows]
    run.check("Llama 60M to 1B: state over AdamW's, least", min(ratios), above=1.0,
              paper="“without additional memory overhead”: 0.24 GB for 60M, as GaLore, against 0.36 GB")  # fmt: skip
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.2, 3.6))
    ranks = np.arange(8, 513, 8)
    for label, s, both in (("GaLore", 0, False), ("Natural GaLore", history, False),
                           ("Natural, both sides", history, True)):  # fmt: skip
        panel.plot(ranks, [_per_matrix(512, 1376, int(r), s, both) / (2 * 512 * 1376) for r in ranks], label=label)
    panel.axhline(1, ls="--", lw=1, color="C7", label="AdamW")
    panel.set(xlabel="rank", ylabel="numbers kept, AdamW = 1", ylim=(0, 4))
    panel.legend(fontsize=8)
    run.plot("state", figure, "A 512 × 1376 matrix: twenty kept gradients cost more than the moments they replace.")


def _network(seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((64, 64, 64, 10)):
        layer = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _train(
    library: Mapping[str, Any], name: str, settings: Mapping[str, Any], lr: float, seed: int, rank: int, epochs: int
) -> dict[str, Any]:
    """One training of the digits' network; the loss after two epochs and at the end."""
    torch.set_num_threads(1)
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if name == "AdamW":
            return torch.optim.AdamW(groups)
        return library["optimizer"](library["groups"](groups, rank, gap=50, scale=1.0, **settings))

    history = optim.fit(
        _network(seed), (x, y), lambda m, a, b: F.cross_entropy(m(a), b), epochs=epochs, batch_size=128, lr=lr,
        optimizer=optimizer, generator=torch.Generator().manual_seed(seed), show_progress=False,
    )  # fmt: skip
    return {"optimizer": name, "lr": lr, "seed": seed, "second epoch": history["loss"][1], "end": history["loss"][-1]}


def digits_over_learning_rates(run: Run, rank: int = 8, seeds: int = 3, epochs: int = 10) -> None:
    """Loss under a small and a larger budget of steps, at each optimizer's best learning rate."""
    library = {"optimizer": galore.NaturalGaLore, "groups": galore.galore_groups}
    kinds = {"AdamW": {}, "GaLore": {"history": 0}, "Natural, λ = 0.001": {"damp": 1e-3},
             "Natural, λ = 0.1": {"damp": 0.1}}  # fmt: skip
    rates = (0.003, 0.01, 0.03, 0.1)
    jobs = [
        joblib.delayed(_train)(library, name, settings, lr, run.seed + s, rank, epochs)
        for (name, settings), lr, s in itertools.product(kinds.items(), rates, range(seeds))
    ]
    found = joblib.Parallel(n_jobs=2, return_as="generator")(jobs)
    import pandas

    frame = pandas.DataFrame(list(run.progress(found, "digits", total=len(jobs))))
    mean = frame.groupby(["optimizer", "lr"])[["second epoch", "end"]].mean()
    spread = frame.groupby(["optimizer", "lr"])["end"].std()
    rows = []
    for name in kinds:
        early, late = mean.loc[name, "second epoch"], mean.loc[name, "end"]
        rows.append({
            "optimizer": name, "second epoch": early.min(), "at lr": early.idxmin(), f"epoch {epochs}": late.min(),
            "at lr ": late.idxmin(), "spread over seeds": spread.loc[(name, late.idxmin())],
        })  # fmt: skip
    run.table("digits", rows, f"Training loss on the digits, rank {rank} of 64, {seeds} seeds, each at its best rate.")
    best = {r["optimizer"]: r[f"epoch {epochs}"] for r in rows}
    run.check(f"GaLore of rank {rank}: training loss at its best rate", best["GaLore"], below=0.12)
    run.check("Natural GaLore, the released damping: training loss at its best rate", best["Natural, λ = 0.001"],
              below=0.35, paper="log-perplexity 2.80, GaLore 2.90 (Llama 1.1B); out of reach here")  # fmt: skip
    run.text("against GaLore", _verdict(rows, epochs))
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    for panel, column in zip(panels, ("second epoch", "end")):
        for name in kinds:
            panel.loglog(rates, mean.loc[name, column], "o-", label=name)
        panel.set(xlabel="learning rate", title="second epoch" if column != "end" else f"epoch {epochs}")
    panels[0].set_ylabel("training loss")
    panels[1].legend(fontsize=8)
    run.plot("digits", figure, "Mean over seeds. The natural step needs a damping of its own to keep up with GaLore.")


def _verdict(rows: list[dict[str, Any]], epochs: int) -> str:
    by = {r["optimizer"]: r for r in rows}
    parts = []
    for name in ("Natural, λ = 0.001", "Natural, λ = 0.1"):
        for when in ("second epoch", f"epoch {epochs}"):
            ratio = by[name][when] / by["GaLore"][when]
            parts.append(f"{name}: {ratio:.2f} of GaLore's loss at {when}")
    return (
        "Whether the natural gradient helps is reported here, not required: " + "; ".join(parts) + ". Below 1 it is "
        "ahead. The Fisher matrix is a sum over the kept gradients, not a mean, so that λ competes with their squared "
        "lengths, and a value that suits one model need not suit another."
    )


def experiment(run: Run, *, rank: int = 8, seeds: int = 3, epochs: int = 10) -> None:
    """Exactness of the step, its two limits, the bases, the state's size, and (full) trainings on the digits.

    Args:
        rank: of the projections in the trainings (full only).
        seeds: of each training.
        epochs: of each training.
    """
    natural_step_is_exact(run)
    steps_follow_dense_inverses(run)
    heavy_damping_is_galore(run)
    full_rank_is_adamw(run)
    bases_are_orthonormal(run)
    state_is_counted(run)
    run.text(
        "memory",
        "The moments of GaLore are small, but every kept gradient is as large as one of them: with twenty kept, the "
        "state is larger than AdamW's unless the rank is below about a twelfth of the matrix's shorter side, or both "
        "sides are projected.",
    )
    if not run.quick:
        digits_over_learning_rates(run, rank=rank, seeds=seeds, epochs=epochs)
