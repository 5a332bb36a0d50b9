"""Intrinsic dimension: the smallest random subspace in which training still succeeds (Li et al., 2018)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import joblib
import scipy.linalg
import torch
from torch import Tensor, nn

from gramian.lab import Card, Run
from gramian.optim import subspace
from gramian.surgery import seed_checkpoint
from gramian.surgery.adapters import transfer

CARD = Card(
    title="Measuring the Intrinsic Dimension of Objective Landscapes",
    row=22,
    arxiv="1804.08838",
    year=2018,
    kind="method",
    idea="Train a network only inside a random subspace through its starting point, and raise the subspace's "
    "dimension until it works. The first dimension that reaches 90% of the full network's score measures how hard "
    "the problem is, and the network can be stored as seeds and that many numbers.",
    claim="The dimension needed is far below the number of parameters and hardly changes when the network grows.",
    keywords=("random subspace", "Fastfood", "compression", "minimum description length", "random projection"),
    api=(
        "gramian.optim.subspace.SubspaceParametrization",
        "gramian.optim.subspace.Projection",
        "gramian.optim.subspace.intrinsic_dimension",
        "gramian.surgery.seed_checkpoint.to_seed_checkpoint",
        "gramian.surgery.seed_checkpoint.from_seed_checkpoint",
    ),
    use="inside = SubspaceParametrization(model, dimension=200, kind='fastfood', seed=0)\n"
    "fit(inside, data, loss, steps=400, lr=0.1)\nmodel = inside.write()",
    reach="MNIST, CIFAR-10, ImageNet and the control problems (inverted pendulum, Atari): digits stand in",
    differs=(
        "Fastfood stacks blocks as wide as the subspace (O(D log d)), without the diagonal that gives rows a chi "
        "distribution; columns are scaled to length 1 exactly instead.",
        "Sparse columns have one entry in each of √D stretches of rows, so that their length is exact.",
    ),
)

WIDTHS = ((64, 32, 10), (64, 64, 64, 10), (64, 128, 128, 10))


class GroupSums(nn.Module):
    """The sums of ten disjoint groups of a hundred parameters."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        start = torch.randn(1000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.values = nn.Parameter(start)

    def forward(self) -> Tensor:
        """Ten sums."""
        return self.values.view(10, 100).sum(1)


def _best_in_subspace(dimension: int | None, kind: Any, seed: int) -> float:
    """exp(−loss) at the bottom of the toy's quadratic loss inside the subspace; 1 in the full space."""
    if dimension is None:
        return 1.0
    inside = subspace.SubspaceParametrization(GroupSums(seed), dimension, kind, seed)
    wanted = 100 * torch.arange(1, 11, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(
        lambda c: torch.func.functional_call(inside, {"coordinates": c}, ()), inside.coordinates.detach()
    )
    with torch.no_grad():
        step = torch.linalg.lstsq(slope, (wanted - inside()).unsqueeze(1)).solution.squeeze(1)
        inside.coordinates.copy_(step)
        return float((-(inside() - wanted).square().sum()).exp())


def toy_has_dimension_ten(run: Run, repeats: int = 3) -> None:
    """A thousand parameters, ten constraints: solved in ten dimensions, not in nine."""
    rows, found = [], []
    for kind in subspace.KINDS:
        for repeat in range(repeats):
            result = subspace.intrinsic_dimension(
                lambda d, kind=kind, repeat=repeat: _best_in_subspace(d, kind, run.seed + repeat), range(6, 14)
            )
            found.append(result.dimension)
            rows.append({"projection": kind, "repeat": repeat, "dimension": result.dimension} | {
                f"score at {d}": result.curve[d] for d in (8, 9, 10, 11)})  # fmt: skip
    run.table("toy", rows, "The best exp(−loss) inside the subspace; the loss is a sum of ten squares.")
    run.check("ten constraints on 1,000 parameters: the dimensions found", set(found), equals=(10,), paper="10")


def _fastfood_by_hand(projection: subspace.Projection) -> Tensor:
    """The Fastfood matrix out of dense factors, in float64."""
    draws = projection.draws
    blocks, n = draws["signs"].shape
    hadamard = torch.tensor(scipy.linalg.hadamard(n), dtype=torch.float64) / n**0.5
    stacked = []
    for b in range(blocks):
        permutation = torch.zeros(n, n, dtype=torch.float64)
        permutation[torch.arange(n), draws["order"][b].long()] = 1
        signs, gauss = torch.diag(draws["signs"][b].double()), torch.diag(draws["gauss"][b].double())
        stacked.append(hadamard @ gauss @ permutation @ hadamard @ signs)
    whole = torch.cat(stacked)[: projection.size, : projection.dimension]
    return whole / whole.norm(dim=0)


def projections_are_unit_and_near_orthogonal(run: Run, size: int = 3000, dimension: int = 100) -> None:
    """Column lengths, angles, adjoints, the product against explicit factors, and memory."""
    rows = []
    probe = torch.randn(dimension, generator=run.generator(), dtype=torch.float64)
    back = torch.randn(size, generator=run.generator(1), dtype=torch.float64)
    for kind in subspace.KINDS:
        projection = subspace.Projection(size, dimension, kind, run.seed, torch.float64)
        matrix = projection.matrix()
        norms = matrix.norm(dim=0)
        gram = matrix.T @ matrix
        cosines = gram[~torch.eye(dimension, dtype=torch.bool)].abs().mean()
        forth, adjoint = projection.apply(probe), projection.adjoint(back)
        rows.append({
            "projection": kind, "length, worst gap from 1": float((norms - 1).abs().max()),
            "mean |cos| × √D": float(cosines) * size**0.5,
            "⟨u, Pv⟩ − ⟨Pᵀu, v⟩": abs(float(back @ forth - adjoint @ probe)),
            "bytes": projection.nbytes,
        })  # fmt: skip
    run.table("projections", rows, f"D = {size:,}, d = {dimension}, float64.")
    run.check("column lengths: worst gap from 1", max(r["length, worst gap from 1"] for r in rows), below=1e-9)
    run.check("mean |cos| between columns, as a multiple of 1/√D", max(r["mean |cos| × √D"] for r in rows), below=2)
    worst = max(abs(r["⟨u, Pv⟩ − ⟨Pᵀu, v⟩"]) for r in rows)
    run.check("P and its adjoint: largest gap of the two inner products", worst, below=1e-9)
    fastfood = subspace.Projection(size, dimension, "fastfood", run.seed)
    gap = (fastfood.apply(probe.float()).double() - _fastfood_by_hand(fastfood) @ probe).abs().max()
    run.check("Fastfood in float32 against the product of its dense factors", gap, below=1e-5)
    big = subspace.Projection(200_000, 1000, "fastfood", run.seed)
    per = big.nbytes / 200_000
    run.check("Fastfood at D = 200,000, d = 1,000: bytes a parameter (dense: 4,000)", per, below=16)


def checkpoint_is_two_seeds(run: Run, dimension: int = 200, steps: int = 200) -> None:
    """A network of 26,122 parameters trained in 200 dimensions, as a file."""
    digits = transfer.load_digits()
    inside = subspace.SubspaceParametrization(transfer.mlp(run.seed, WIDTHS[2]), dimension, "fastfood", run.seed)
    before = inside.start.clone()
    transfer.train(inside, digits.train, digits.train_labels, steps=steps, lr=0.1, seed=run.seed)
    score = transfer.accuracy(inside, digits.test, digits.test_labels)
    run.check(f"digits, 64-128-128-10 in {dimension} of 26,122 dimensions: test accuracy", score, above=0.84)
    path = seed_checkpoint.to_seed_checkpoint(inside, Path(run.out) / "models" / "subspace.safetensors", run.seed)
    written = path.stat().st_size
    run.check("the file, beyond four bytes a coordinate", written - 4 * dimension, below=1024)
    run.check("the float32 network over the file", 4 * inside.layout.size / written, above=40)
    loaded = seed_checkpoint.from_seed_checkpoint(path, lambda seed: transfer.mlp(seed, WIDTHS[2])).write()
    theta = inside.layout.read(loaded)
    same = bool(torch.equal(theta, inside.parameters_now().detach()))
    run.check("loaded again, every parameter has the same bits", same, equals=True)
    moved = theta - before
    left = moved - inside.projection.apply(
        torch.linalg.lstsq(inside.projection.matrix(), moved[:, None]).solution[:, 0]
    )
    run.check("share of the way from θ₀ that lies outside the subspace", left.norm() / moved.norm(), below=1e-4)


def _score(library: Any, widths: tuple[int, ...], dimension: int | None, seed: int, steps: int) -> float:
    """Test accuracy of one training, on one thread; in the full space where no dimension is given."""
    torch.set_num_threads(1)
    digits = transfer.load_digits()
    model: nn.Module = transfer.mlp(100 + seed, widths)
    if dimension is not None:
        model = library(model, dimension, "fastfood", seed)
    rate = 3e-3 if dimension is None else 0.1
    transfer.train(model, digits.train, digits.train_labels, steps=steps, lr=rate, seed=seed)
    return transfer.accuracy(model, digits.test, digits.test_labels)


def networks_of_all_sizes_need_the_same(run: Run, grid: tuple[int, ...], seeds: int, steps: int) -> None:
    """d_int90 of three networks whose parameter counts differ elevenfold."""
    cells = [(w, d, run.seed + s) for w in WIDTHS for d in (None, *grid) for s in range(seeds)]
    jobs = [joblib.delayed(_score)(subspace.SubspaceParametrization, w, d, s, steps) for w, d, s in cells]
    parallel = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")
    scores = list(run.progress(parallel(jobs), "subspaces", total=len(jobs)))
    rows, curves = [], {}
    for widths in WIDTHS:
        mean = {
            d: sum(v for (w, e, _), v in zip(cells, scores) if (w, e) == (widths, d)) / seeds for d in (None, *grid)
        }
        result = subspace.intrinsic_dimension(mean.__getitem__, grid)
        size = sum(a * b + b for a, b in itertools.pairwise(widths))
        curves[f"{'-'.join(map(str, widths))}, D = {size:,}"] = (result, mean[None])
        rows.append({"network": "-".join(map(str, widths)), "parameters": size, "full accuracy": mean[None],
                     "d_int90": result.dimension} | {f"d = {d}": mean[d] for d in grid})  # fmt: skip
    run.table("digits", rows, f"Test accuracy by dimension of the subspace, mean of {seeds} seeds.")
    found = [r["d_int90"] or 10 * max(grid) for r in rows]
    run.check("digits: smallest d_int90 of three networks", min(found), above=75, paper="MNIST: 750, LeNet: 290")
    run.check("digits: largest d_int90 of three networks", max(found), below=250)
    claim = "largest over smallest d_int90, while the number of parameters varies 10.8-fold"
    run.check(claim, max(found) / min(found), below=2.5)
    from matplotlib import pyplot

    figure, panel = pyplot.subplots()
    for i, (name, (result, full)) in enumerate(curves.items()):
        panel.plot(list(result.curve), [v / full for v in result.curve.values()], "o-", ms=4, color=f"C{i}", label=name)
    panel.axhline(0.9, color="C7", lw=1, ls="--")
    panel.set(xlabel="dimension of the random subspace", ylabel="accuracy / full network's")
    panel.legend()
    run.plot("digits", figure, "Networks elevenfold apart in size cross 90% (dashed) at about the same dimension.")


def _picture_of_toy(run: Run) -> None:
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(5.6, 3))
    for i, kind in enumerate(subspace.KINDS):
        scores = [_best_in_subspace(d, kind, run.seed) for d in range(1, 16)]
        panel.plot(range(1, 16), scores, "os^"[i] + "-", ms=9 - 3 * i, color=f"C{i}", label=kind)
    panel.set(xlabel="dimension of the random subspace", ylabel="best exp(−loss)")
    panel.legend()
    run.plot("toy", figure, "Ten constraints on a thousand parameters: nothing below ten dimensions, everything above.")


def experiment(run: Run, *, seeds: int = 2, steps: int = 300) -> None:
    """The toy with ten constraints, the projections, a checkpoint, and three networks on digits.

    Args:
        seeds: trainings over which each accuracy is averaged (full only).
        steps: of each training on digits (full only).
    """
    toy_has_dimension_ten(run)
    _picture_of_toy(run)
    projections_are_unit_and_near_orthogonal(run)
    checkpoint_is_two_seeds(run)
    run.text(
        "subspace",
        "A random subspace meets a solution as soon as its dimension reaches the number of constraints that the data "
        "put on the parameters; how many parameters there are besides plays no part in it.",
    )
    if not run.quick:
        networks_of_all_sizes_need_the_same(run, (50, 75, 100, 150, 200, 250), seeds, steps)
