"""Which features networks share, and which data hold them (Jiang, Baek & Kolter, 2023)."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor

from gramian.analysis.geometry import interaction_tensor as tensors
from gramian.lab import Card, Run
from gramian.science import feature_framework
from gramian.surgery.adapters import transfer

CARD = Card(
    title="On the Joint Interaction of Models, Data, and Features",
    row=99,
    arxiv="2306.04793",
    year=2023,
    kind="theory",
    idea="Take the principal components of each network's last activations as its features, call those of different "
    "networks one that correlate over the data, and note which network has which feature and which point holds it. In "
    "a model where a network is right if it knows one of a point's features, accuracy and agreement of two networks "
    "have closed forms.",
    claim="The model explains when the disagreement of two networks on unlabelled data equals their error.",
    keywords=("generalization disagreement equality", "GDE", "agreement", "unlabelled data", "ensembles", "long tail"),
    api=(
        "gramian.analysis.geometry.interaction_tensor.InteractionTensor",
        "gramian.science.feature_framework.Framework",
    ),
    use="found = InteractionTensor(k=10, gamma_corr=0.7, gamma_data=0.5).fit(activations)\n"
    "found.frequency   # the share of the networks that have each feature",
    reach="ResNets on CIFAR-10 and SVHN in the hundreds",
    differs=(
        "The paper's own parametrization of the framework and its clustering of features are not public in detail: "
        "closed forms are derived here from the words, and features are joined by complete linkage.",
        "In this parametrization accuracy is never below agreement: kinds of points cannot cancel each other, and the "
        "equality holds exactly if each kind is always or never known.",
    ),
    data=("digits",),
)

EXAMPLE = feature_framework.Framework((10, 40), (3, 3), (5, 6), 0.8)


def closed_forms(run: Run, draws: int = 100_000) -> None:
    """Accuracy and agreement against draws, feature by feature, and where they are equal."""
    run.check("t = (10, 40), n = 3, c = (5, 6), p = 0.8: accuracy against 0.9061", abs(EXAMPLE.accuracy - 0.9061),
              below=1e-4)  # fmt: skip
    run.check("… agreement against 0.8517", abs(EXAMPLE.agreement - 0.8517), below=1e-4)
    rows, worst = [], 0.0
    others = [EXAMPLE, feature_framework.Framework((6, 20), (2, 4), (1, 5), 0.3),
              feature_framework.Framework((4, 9), (1, 0), (2, 9), 0.5)]  # fmt: skip
    for number, frame in enumerate(others):
        drawn = frame.sample(draws, run.generator(number))
        for name, wanted, found in (("accuracy", frame.accuracy, drawn.accuracy),
                                    ("agreement", frame.agreement, drawn.agreement)):  # fmt: skip
            # the two answers to one point are not independent: the error of a draw is at most that of one coin
            error = (wanted * (1 - wanted) / draws) ** 0.5
            worst = max(worst, abs(found - wanted) / error)
            rows.append({"t": str(frame.features), "n": str(frame.held), "c": str(frame.known), "p": frame.dominant,
                         "figure": name, "closed form": wanted, "drawn": found})  # fmt: skip
    run.table("framework", rows, f"{draws} draws of a point and two networks.")
    run.check("closed forms against draws, in standard errors, most", worst, below=4.0)
    sure = [feature_framework.Framework((5, 5), (2, 2), (known, known), 1.0) for known in (0, 4)]
    gap = max(abs(f.accuracy - f.agreement) for f in sure)
    run.check("points never or always known: accuracy less agreement", gap, equals=0.0,
              paper="the equality of error and disagreement holds")  # fmt: skip
    broken = feature_framework.Framework((2, 2), (1, 1), (1, 1), 1.0)
    run.check("points known half of the time: accuracy less agreement", broken.accuracy - broken.agreement,
              equals=0.125, paper="distributions that break the equality can be constructed")  # fmt: skip


def known_tensors(run: Run, networks: int = 5, k: int = 6, points: int = 400) -> None:
    """Networks that are alike, networks that have nothing in common, and some planted features."""
    generator = run.generator(10)
    scale = torch.linspace(3, 1, 20, dtype=torch.float64)
    x = torch.randn(points, 20, generator=generator, dtype=torch.float64) * scale
    turns = [torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64)).Q for _ in range(networks)]
    same = tensors.InteractionTensor(k, 0.7, 0.5).fit([x @ t for t in turns])
    run.check(f"{networks} networks that are rotations of one: features found, of {k}", same.features, equals=k)
    run.check("… least share of the networks that have a feature", same.frequency.min(), equals=1.0)
    noise = [torch.randn(points, 20, generator=generator) for _ in range(networks)]
    alone = tensors.InteractionTensor(k, 0.7, 0.5).fit(noise)
    run.check("networks of independent noise: features found", alone.features, equals=networks * k)
    # of three planted directions the first is in all networks, the second in some, the third in one
    planted = torch.randn(points, 3, generator=generator, dtype=torch.float64) * torch.tensor([9.0, 7.0, 5.0])
    wanted = torch.tensor([[True, m < 3, m == 0] for m in range(networks)])
    activations = []
    for own in wanted:
        rest = torch.randn(points, 17, generator=generator, dtype=torch.float64)
        activations.append(torch.cat((planted * own, rest), 1) @ turns[0])
    found = tensors.InteractionTensor(3, 0.7, 0.5).fit(activations)
    shared = found.owners[:, found.frequency > 1.5 / networks].double().mean(0).sort().values.tolist()
    run.check("planted features of three and of all networks: their frequencies",
              tuple(round(v, 3) for v in shared), equals=(0.6, 1.0))  # fmt: skip
    first = found.labels[0, 0]
    holds = found.tensor.to_dense()[0, :, first]
    size = planted[:, 0].abs() / planted[:, 0].abs().max()
    clear = (size < 0.4) | (size > 0.6)  # a component is the planted direction up to the chance of a finite sample
    run.check("points clear of the threshold: share said rightly to hold the strongest planted feature or not",
              (holds == (size > 0.5))[clear].double().mean(), above=0.98)  # fmt: skip
    run.check("… of those that do, share found", holds[size > 0.6].double().mean(), above=0.9)


def _network(seed: int, x: Tensor, y: Tensor, held: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Answers and last hidden activations of one network on points that it was not trained on."""
    torch.set_num_threads(1)
    model = transfer.mlp(seed, (64, 64, 32, 10))
    transfer.train(model, x, y, steps=steps, lr=3e-3, seed=seed)
    with torch.no_grad():
        hidden = model[:-1](held)
        return model[-1](hidden).argmax(-1).numpy(), hidden.numpy()


def digits(run: Run, networks: int = 20, steps: int = 150, train: int = 250, points: int = 300) -> None:
    """Networks of different seeds on digits: error and disagreement, and how features are spread."""
    from matplotlib import pyplot

    found = transfer.load_digits()
    x, y = found.train[:train], found.train_labels[:train]
    held, wanted = found.test[:points], found.test_labels[:points].numpy()
    jobs = [joblib.delayed(_network)(run.seed * 100 + s, x, y, held, steps) for s in range(networks)]
    both = list(run.progress(joblib.Parallel(n_jobs=2, return_as="generator")(jobs), "networks", total=networks))
    answers = np.stack([a for a, _ in both])
    error = float((answers != wanted).mean())
    apart = [float((answers[i] != answers[j]).mean()) for i in range(networks) for j in range(i)]
    disagreement = float(np.mean(apart))
    run.check(f"{networks} networks: error less disagreement on unlabelled points, absolute", abs(error - disagreement),
              below=0.03, paper="the two are equal in practice (GDE)")  # fmt: skip
    tensor = tensors.InteractionTensor(10, 0.7, 0.5).fit([torch.from_numpy(h) for _, h in both])
    frequency = tensor.frequency
    uneven = tensors.gini(frequency)
    run.check("Gini's index of how many networks have a feature", uneven, above=0.3,
              paper="few features are in most networks, many in few")  # fmt: skip
    right = torch.from_numpy((answers == wanted).mean(0))
    many = tensor.held >= tensor.held.median()
    rows: list[dict[str, Any]] = [
        {"figure": "error", "value": error}, {"figure": "disagreement of two", "value": disagreement},
        {"figure": "features found", "value": tensor.features}, {"figure": "of at most", "value": 10 * networks},
        {"figure": "features in half of the networks or more", "value": int((frequency >= 0.5).sum())},
        {"figure": "features in one network", "value": int((frequency * networks < 1.5).sum())},
        {"figure": "Gini's index of their frequency", "value": uneven},
        {"figure": "accuracy on points with many features", "value": float(right[many].mean())},
        {"figure": "accuracy on points with few", "value": float(right[~many].mean())},
    ]  # fmt: skip
    run.table("digits", rows, f"{networks} networks of 64-64-32-10, trained on {train} digits, on {points} others.")
    run.text(
        "digits",
        f"Error {error:.3f}, disagreement {disagreement:.3f}. In the framework networks draw their features apart from "
        "each other, and disagreement is never below error; networks trained on the same data err on the same points, "
        "which pulls disagreement down.",
    )
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels[0].plot(np.arange(1, tensor.features + 1), frequency.sort(descending=True).values.numpy(), "-")
    panels[0].set(xlabel="feature, most frequent first", ylabel="share of the networks", xscale="log", ylim=(0, 1.05))
    order = frequency.argsort(descending=True)[:25]
    image = tensor.tensor.to_dense().double().mean(0)[:, order][torch.from_numpy(wanted).argsort(stable=True)]
    drawn = panels[1].imshow(image.numpy(), aspect="auto", cmap="viridis", interpolation="nearest")
    panels[1].set(xlabel="feature, most frequent first", ylabel="points, by digit 0 to 9")
    panels[1].grid(False)
    figure.colorbar(drawn, ax=panels[1], label="share of networks that see it")
    run.plot("digits", figure, "How many networks have a feature, and which points hold the most frequent ones.")


def framework_picture(run: Run) -> None:
    """Accuracy against agreement as a network learns more features."""
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(4.8, 3.8), layout="constrained")
    for held in (1, 2, 4):
        frames = [feature_framework.Framework((10, 40), (held, held), (c, 0), 1.0) for c in range(11)]
        panel.plot([f.agreement for f in frames], [f.accuracy for f in frames], "o-", label=f"{held} of 10 held")
    panel.plot([0.5, 1], [0.5, 1], "--", label="equal")
    panel.set(xlabel="agreement of two networks", ylabel="accuracy of one")
    panel.legend()
    run.plot("framework", figure, "Networks that know 0 to 10 of ten features: accuracy is above agreement in between.")


def experiment(run: Run, *, networks: int = 20) -> None:
    """The framework's closed forms, tensors that are known, and networks on digits.

    Args:
        networks: trained on digits (full only).
    """
    closed_forms(run)
    known_tensors(run)
    framework_picture(run)
    if not run.quick:
        digits(run, networks)
    run.text(
        "features",
        "A few features are in most networks, a long tail in a few each. Where a point is either known to all or to "
        "none, two networks disagree as often as one errs.",
    )
