"""Tanh layers take the targets' geometry, ReLU layers keep more of the inputs' (Alleman, Lindsey & Fusi, 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import joblib
import torch
import torch.nn.functional as F
from torch import Tensor

from gramian.analysis.geometry import conditions
from gramian.lab import Card, Run
from gramian.linalg.manifold import orthogonal
from gramian.science import task_geometry

CARD = Card(
    title="Task structure and nonlinearity jointly determine learned representational geometry",
    row=229,
    arxiv="2401.13558",
    year=2024,
    kind="theory",
    idea="In a network with one hidden layer, the expected gradient on a unit's input weights counts only the samples "
    "that the unit hears of. A ReLU unit hears of one half-space and specializes for a region of the inputs; a tanh "
    "unit hears of both sides and takes the direction that tells the classes apart.",
    claim="Tanh networks learn hidden representations with the geometry of the targets, ReLU networks keep more of the "
    "geometry of the inputs.",
    keywords=("kernel alignment", "CKA", "parallelism score", "abstraction", "CCGP", "XOR", "activation function"),
    api=(
        "gramian.analysis.geometry.conditions.kernel_alignment",
        "gramian.analysis.geometry.conditions.parallelism_score",
        "gramian.analysis.geometry.conditions.ccgp",
        "gramian.science.task_geometry.make_task",
        "gramian.science.task_geometry.expected_gradient_field",
    ),
    use="task = make_task(k=2, delta=0.5)\nnet = train_one_hidden(task.inputs, task.targets, torch.tanh)\n"
    "kernel_alignment(net.hidden(task.inputs), task.targets)",
    reach="deeper and convolutional networks on image sets, and tasks drawn at every alignment of inputs and targets",
    differs=(
        "The task's family is the hypercube of the latents with their product as one more direction; the paper draws "
        "input geometries of many kinds. Start, optimizer and noise are ours.",
        "Found here: without the interaction direction (δ = 0) the order is the reverse: tanh keeps the inputs, and "
        "ReLU aligns with the target more. On digits cut into even and odd the two do not differ reliably. Both are "
        "shown in tables, nothing is gated on them.",
    ),
    data=("digits",),
)

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "ReLU": torch.relu}


def measures_on_known_geometries(run: Run) -> None:
    """A hypercube, conditions without structure, and what a kernel does not see."""
    generator = run.generator()
    parallel, general = [], []
    for k in (2, 3):
        grid = task_geometry.latent_grid(k)
        turned = 3.0 * grid @ orthogonal.haar(12, generator)[:k] + 1.0
        side = grid[:, 0] > 0
        parallel.append(float(conditions.parallelism_score(turned, side)))
        general.append(conditions.ccgp(turned, torch.arange(len(grid)), side))
    run.check("hypercube of two and of three latents: distance of the parallelism score from 1",
              max(abs(p - 1) for p in parallel), below=1e-6)  # fmt: skip
    run.check("… generalization across conditions, least", min(general), equals=1.0)
    alone = torch.eye(4)[torch.randperm(4, generator=generator)] @ orthogonal.haar(4, generator)
    none = conditions.parallelism_score(alone, torch.tensor([True, True, False, False]))
    run.check("conditions at right angles: parallelism score", none.abs(), below=1e-6)
    square = task_geometry.latent_grid(2)
    twisted = conditions.ccgp(
        square.repeat(20, 1) + 0.1 * torch.randn(80, 2, generator=generator), torch.arange(4).repeat(20),
        task_geometry.parity(square)[:, 0] > 0,
    )  # fmt: skip
    run.check("XOR read from a square: generalization across conditions", twisted, below=0.1,
              paper="a readout learned in one context is wrong in the other")  # fmt: skip
    x = torch.randn(60, 7, generator=generator)
    y = torch.cat((x[:, :2], torch.randn(60, 3, generator=generator)), 1)
    before = conditions.kernel_alignment(x, y)
    after = conditions.kernel_alignment(-4.0 * x @ orthogonal.haar(7, generator) + 5.0, y)
    run.check("kernel alignment under rotation, scale and shift (change)", (before - after).abs(), below=1e-6)
    kernels = [(v - v.mean(0)).double() @ (v - v.mean(0)).double().T for v in (x, y)]
    oracle = F.cosine_similarity(kernels[0].flatten(), kernels[1].flatten(), dim=0)
    run.check("… against the cosine of the centred kernels (difference)", (before - oracle).abs(), below=1e-6)


def field_is_the_gradient(run: Run) -> None:
    """The field at a unit's weights against autograd's average over the samples, one by one."""
    gaps = []
    task = task_geometry.make_task(generator=run.generator(1), samples=8)
    for activation in ACTIVATIONS.values():
        model = task_geometry.OneHidden(20, 6, 1, activation, run.generator(2)).double()
        x, y = task.inputs.double(), task.targets.double()
        with torch.no_grad():
            model.write.bias.copy_(0.3 * torch.randn(6, generator=run.generator(3), dtype=torch.float64))
            residual = (y * torch.sigmoid(-y * model(x)))[:, 0]
            weights, readout, bias = (
                model.write.weight.clone(),
                model.read.weight[0].tolist(),
                model.write.bias.tolist(),
            )
        sums = torch.zeros_like(model.write.weight)
        for row, target in zip(x, y, strict=True):
            loss = F.softplus(-target * model(row[None])[0]).sum()
            sums += torch.autograd.grad(loss, model.write.weight)[0] / len(x)
        for unit in range(6):
            field = task_geometry.expected_gradient_field(
                weights[unit : unit + 1], x, residual, activation, readout=readout[unit], bias=bias[unit]
            )
            gaps.append(float((field[0] + sums[unit]).abs().max()))
    run.check("field against minus the average gradient, tanh and ReLU (largest difference)", max(gaps), below=1e-6)


def fields(run: Run) -> None:
    """What the field does at the start, along the axis between the classes and one within them."""
    from matplotlib import pyplot

    task = task_geometry.make_task(delta=0.5, noise=0.0, samples=1)
    between, within = task.embedding[:, -1], (task.embedding[:, 0] + task.embedding[:, 1]) / 2**0.5
    # where a target of −1 and one of +1 weigh alike, as at the start
    residual = task.targets[:, 0] * 0.5
    side = torch.linspace(-2, 2, 15)
    a, b = torch.meshgrid(side, side, indexing="xy")
    weights = a.flatten()[:, None] * within + b.flatten()[:, None] * between
    shares, figure_parts = {}, {}
    for name, activation in ACTIVATIONS.items():
        field = task_geometry.expected_gradient_field(weights, task.inputs, residual, activation)
        along = torch.stack((field @ within, field @ between), 1)
        figure_parts[name] = along
        squares = along.square().sum(0)
        shares[name] = float(squares[1] / squares.sum())
    run.check("share of the gradient along the axis between the classes, tanh over ReLU",
              shares["tanh"] / shares["ReLU"], above=1.2,
              paper="a ReLU unit is moved by the inputs that it hears of, a tanh unit by all")  # fmt: skip
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.9), layout="constrained", sharey=True)
    for panel, (name, along) in zip(panels, figure_parts.items(), strict=True):
        panel.quiver(a.flatten(), b.flatten(), along[:, 0], along[:, 1], color="C0" if name == "tanh" else "C1",
                     angles="xy")  # fmt: skip
        panel.set(
            title=f"{name}: {shares[name]:.0%} between the classes", xlabel="weight along a direction within a class"
        )
    panels[0].set_ylabel("weight along the direction between classes")
    run.plot("fields", figure, "Where gradient descent moves the input weights of one hidden unit with a positive "
             "readout, XOR with δ = 0.5, before the network knows anything.")  # fmt: skip


Library = Mapping[str, Callable[..., Any]]


def _learned(library: Library, name: str, delta: float, seed: int, steps: int, samples: int) -> dict[str, Any]:
    """One network on XOR, and the geometry of its hidden layer."""
    torch.set_num_threads(1)
    task = library["task"](2, delta, 0.1, samples=samples, generator=torch.Generator().manual_seed(seed))
    model = library["train"](
        task.inputs, task.targets, ACTIVATIONS[name], steps=steps, generator=torch.Generator().manual_seed(seed)
    )
    with torch.no_grad():
        hidden = model.hidden(task.inputs)
        right = float(((model(task.inputs) > 0) == (task.targets > 0)).double().mean())
    parts = model.write.weight.detach() @ task.embedding
    means = conditions.condition_means(hidden, task.conditions)
    return {
        "δ": delta, "activation": name, "seed": seed, "accuracy": right,
        "target": float(library["align"](hidden, task.targets)),
        "inputs": float(library["align"](hidden, task.inputs)),
        "parallelism": float(conditions.parallelism_score(means, task.side)),
        "generalization": library["ccgp"](hidden, task.conditions, task.side),
        "weights between classes": float(parts[:, -1].square().sum() / parts.square().sum()),
    }  # fmt: skip


def hidden_geometry(
    run: Run, deltas: tuple[float, ...] = (0.5,), seeds: int = 1, steps: int = 1000, samples: int = 30
) -> None:
    """XOR at several strengths of the interaction direction, tanh beside ReLU."""
    import pandas
    from matplotlib import pyplot

    library = {"task": task_geometry.make_task, "train": task_geometry.train_one_hidden,
               "align": conditions.kernel_alignment, "ccgp": conditions.ccgp}  # fmt: skip
    jobs = [joblib.delayed(_learned)(library, name, d, run.seed + s, steps, samples)
            for d in deltas for name in ACTIVATIONS for s in range(seeds)]  # fmt: skip
    results = joblib.Parallel(n_jobs=1 if run.quick else 2, return_as="generator")(jobs)
    frame = pandas.DataFrame(list(run.progress(results, "networks", total=len(jobs))))
    table = frame.groupby(["δ", "activation"], sort=True).mean().drop(columns="seed")
    run.table(
        "hidden geometry", table,
        f"XOR of two latents, means over {seeds} seed(s). target, inputs: kernel alignment of the hidden layer; "
        "parallelism and generalization across conditions of the target.",
    )  # fmt: skip
    run.check("accuracy of every network, least", frame["accuracy"].min(), above=0.99)

    def of(name: str, delta: float, column: str) -> Tensor:
        chosen = frame[(frame["δ"] == delta) & (frame["activation"] == name)]
        return torch.tensor(chosen[column].to_numpy())

    run.check("δ = 0.5: tanh's alignment with the target, least", of("tanh", 0.5, "target").min(), above=0.75,
              paper="tanh networks reflect the structure of the target outputs")  # fmt: skip
    run.check("δ = 0.5: … above ReLU's, least",
              (of("tanh", 0.5, "target") - of("ReLU", 0.5, "target")).min(), above=0.15)  # fmt: skip
    run.check("δ = 0.5: ReLU's alignment with the inputs, least", of("ReLU", 0.5, "inputs").min(), above=0.7,
              paper="ReLU networks retain more information about the structure of the raw inputs")  # fmt: skip
    run.check("δ = 0.5: tanh's alignment with the inputs, most", of("tanh", 0.5, "inputs").max(), below=0.4)
    run.check("δ = 0.5: parallelism of the target's coding, tanh above ReLU, least",
              (of("tanh", 0.5, "parallelism") - of("ReLU", 0.5, "parallelism")).min(), above=0.3,
              paper="low-dimensional targets: tanh representations are more disentangled")  # fmt: skip
    run.check("δ = 0.5: share of the weights between the classes, tanh above ReLU, least",
              (of("tanh", 0.5, "weights between classes") - of("ReLU", 0.5, "weights between classes")).min(),
              above=0.3)  # fmt: skip
    if 1.0 in deltas:
        run.check("δ = 1: tanh's alignment with the target above ReLU's, least",
                  (of("tanh", 1.0, "target") - of("ReLU", 1.0, "target")).min(), above=0.0)  # fmt: skip
    if 0.0 in deltas:
        both = [float(of(n, 0.0, "target").mean()) for n in ACTIVATIONS]
        run.text(
            "no interaction direction",
            f"At δ = 0 the target has no direction of its own in the inputs: alignment with the target is then "
            f"{both[0]:.2f} for tanh and {both[1]:.2f} for ReLU.",
        )
    if len(deltas) > 1:
        figure, panels = pyplot.subplots(1, 2, figsize=(8.4, 3.5), layout="constrained")
        for panel, column in zip(panels, ("target", "inputs"), strict=True):
            for name in ACTIVATIONS:
                chosen = frame[frame["activation"] == name].groupby("δ")[column]
                panel.errorbar(chosen.mean().index, chosen.mean(), chosen.std(), fmt="o-", label=name, capsize=3)
            panel.set(xlabel="strength δ of the interaction direction", ylim=(0, 1.05),
                      ylabel=f"hidden layer's alignment with the {column}")  # fmt: skip
        panels[0].legend()
        run.plot("hidden geometry", figure, "Whose geometry a hidden layer has after learning XOR.")


def _digits(library: Library, name: str, seed: int, steps: int) -> dict[str, Any]:
    """Digits with their labels merged into even and odd."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    raw, labels = load_digits(return_X_y=True)
    x, labels = torch.tensor(raw / 16, dtype=torch.float32), torch.tensor(labels)
    x, targets = x - x.mean(0), (labels % 2 * 2.0 - 1)[:, None].float()
    model = library["train"](x[600:], targets[600:], ACTIVATIONS[name], steps=steps, batch_size=128,
                             generator=torch.Generator().manual_seed(seed))  # fmt: skip
    with torch.no_grad():
        hidden = model.hidden(x[:600])
        right = float(((model(x[:600]) > 0) == (targets[:600] > 0)).double().mean())
    means = conditions.condition_means(hidden, labels[:600])
    side = torch.arange(10) % 2 == 1
    return {"activation": name, "seed": seed, "accuracy, held out": right,
            "target": float(library["align"](hidden, targets[:600])),
            "inputs": float(library["align"](hidden, x[:600])),
            "parallelism": float(conditions.parallelism_score(means, side)),
            "generalization": library["ccgp"](hidden, labels[:600], side)}  # fmt: skip


def digits(run: Run, seeds: int = 2, steps: int = 500) -> None:
    """Even against odd digits: inputs with a structure of their own."""
    import pandas

    library = {"train": task_geometry.train_one_hidden, "align": conditions.kernel_alignment, "ccgp": conditions.ccgp}
    jobs = [joblib.delayed(_digits)(library, n, run.seed + s, steps) for n in ACTIVATIONS for s in range(seeds)]
    results = joblib.Parallel(n_jobs=2, return_as="generator")(jobs)
    frame = pandas.DataFrame(list(run.progress(results, "digits", total=len(jobs))))
    run.table("digits", frame.groupby("activation").mean().drop(columns="seed"),
              f"Even against odd, on 600 digits held out; means over {seeds} seeds.")  # fmt: skip
    means = frame.groupby("activation")["target"].mean()
    run.text(
        "digits",
        f"Even against odd on real inputs, where ten clusters of unequal shape take the place of the latents, does not "
        f"tell the two apart: alignment with the target {means['tanh']:.2f} for tanh, {means['ReLU']:.2f} for ReLU.",
    )


def experiment(run: Run, *, seeds: int = 3, steps: int = 1000) -> None:
    """The measures on known geometries, the gradient field, XOR at three strengths, and digits.

    Args:
        seeds: networks of each kind (full only).
        steps: of their training on XOR.
    """
    measures_on_known_geometries(run)
    field_is_the_gradient(run)
    fields(run)
    if run.quick:
        hidden_geometry(run, steps=steps)
    else:
        hidden_geometry(run, (0.0, 0.5, 1.0), seeds, steps)
        digits(run)
    run.text(
        "geometry",
        "Once the target has a direction of its own among the inputs, clear of the noise, a tanh layer turns to it "
        "and forgets the rest; a ReLU layer cuts the inputs into regions and keeps them apart.",
    )
